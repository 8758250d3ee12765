"""How probable a network finds a text that is there already."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmlab import kernels as kernel_sets
from llmlab.layers import Layer
from llmlab.params import Arena
from llmlab.workspace import Context


def log_probabilities(
    stack: Layer,
    params: Arena,
    ids: Sequence[int],
    max_seq_len: int,
    kernels: Any = "numpy",
) -> np.ndarray:
    """Return ln p of each id but the first, given those before it, (n − 1,) in float64.

    A text longer than the context is read in windows that overlap by half, so that each token
    has at least `max_seq_len` // 2 before it, as far as there are so many.

    Raises
    ------
    ValueError
        Fewer than two ids: nothing is predicted.
    """
    if len(ids) < 2:
        raise ValueError("a text of one token has nothing that could be predicted")
    loaded = kernel_sets.load(kernels) if isinstance(kernels, str) else kernels
    ctx = Context(loaded, params.flat.dtype)
    whole = np.array(ids, np.intp)
    inputs, targets = whole[:-1], whole[1:]
    result = np.empty(len(targets))
    done, stride = 0, max(1, max_seq_len // 2)
    while done < len(targets):
        # The first window counts whole, later ones with their second half.
        start = max(0, done - (max_seq_len - stride))
        stop = min(start + max_seq_len, len(targets))
        ctx.begin(1, stop - start)
        logits, _ = stack.forward(params.tree, np.ascontiguousarray(inputs[start:stop]), ctx)
        new = logits[done - start :].astype(np.float64)
        new -= new.max(axis=1, keepdims=True)
        picked = new[np.arange(stop - done), targets[done:stop]]
        result[done:stop] = picked - np.log(np.exp(new).sum(axis=1))
        done = stop
    return result
