"""What counting neighbours can predict: the least that a network has to beat."""

import numpy as np
from numpy.typing import NDArray


def ngram_losses(
    training: NDArray[np.integer],  # ids to count, (N,)
    # Ids to predict, (M,), all but the first; contexts don't reach before its beginning
    text: NDArray[np.integer],
    vocab_size: int,
    highest: int = 6,
) -> list[float]:
    """Return the mean nats per token of interpolated Witten-Bell n-grams, of each order from 1.

    With c the counts in the training text and t(h) the number of different tokens seen after
    the context h,

        p_n(w | h) = (c(h w) + t(h) p_{n-1}(w | h')) / (c(h) + t(h)),    p_0 = 1 / vocab_size,

    where h' is h without its first token; after a context that was never seen, p_n = p_{n-1}.
    Source: Witten and Bell (1991), method C, as Chen and Goodman (1998) interpolate it.
    """
    ids = np.concatenate([training, text]).astype(np.int64)
    start = len(training)
    places = np.arange(start + 1, len(ids))  # what is predicted
    begin = np.where(np.arange(len(ids)) < start, 0, start)
    # grams[i] is the number of the n-gram that ends at i; equal n-grams have equal numbers.
    grams = np.zeros(len(ids), dtype=np.int64)
    p = np.full(len(places), 1 / vocab_size)
    losses = []
    for order in range(1, highest + 1):
        contexts = np.concatenate([[0], grams[:-1]])
        whole = np.arange(len(ids)) - begin >= order - 1
        _, first, grams = np.unique(
            contexts * vocab_size + ids, return_index=True, return_inverse=True
        )
        counted = np.flatnonzero(whole[:start])
        counts = np.bincount(grams[counted], minlength=len(first))
        after = np.bincount(contexts[counted], minlength=int(contexts.max()) + 1)
        kinds = np.bincount(contexts[first[counts > 0]], minlength=len(after))
        h = contexts[places]
        known = whole[places] & (after[h] > 0)
        k, hk = places[known], h[known]
        p[known] = (counts[grams[k]] + kinds[hk] * p[known]) / (after[hk] + kinds[hk])
        losses.append(float(-np.log(p).mean()))
    return losses
