"""How probable a network finds a text that is there already."""

from collections.abc import Sequence

import numpy as np

from llmlab.network import Network


def log_probabilities(network: Network, ids: Sequence[int]) -> np.ndarray:
    """Return ln p of each id but the first, given those before it, (n − 1,) in float64.

    A text longer than the context is read in windows that overlap by half, so that each token
    has at least half of it before it, as far as there are so many.
    """
    if len(ids) < 2:
        raise ValueError("a text of one token has nothing that could be predicted")
    max_seq_len = network.max_seq_len
    if max_seq_len is None:
        raise ValueError("a network that scores texts needs its max_seq_len")
    whole = np.array(ids, np.intp)
    inputs, targets = whole[:-1], whole[1:]
    result = np.empty(len(targets))
    done, stride = 0, max(1, max_seq_len // 2)
    while done < len(targets):
        # The first window counts whole, later ones with their second half.
        start = max(0, done - (max_seq_len - stride))
        stop = min(start + max_seq_len, len(targets))
        logits = network.forward(inputs[start:stop])
        new = logits[done - start :].astype(np.float64)
        new -= new.max(axis=1, keepdims=True)
        picked = new[np.arange(stop - done), targets[done:stop]]
        result[done:stop] = picked - np.log(np.exp(new).sum(axis=1))
        done = stop
    return result
