"""Label smoothing, as what it adds to the cross entropy."""

from typing import Any

import numpy as np


def smooth_labels(
    ctx: Any,
    logits: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    scale: float,
    share: float,
    dlogits: np.ndarray,
) -> float:
    """Give `share` of each target to all tokens alike (Szegedy et al. 2015, arXiv:1512.00567).

    Returns what that adds to the weighted loss, share · Σ weight · (x_target − mean(x)), and
    adds `scale` times its gradient to `dlogits` (N, V), both of which `cross_entropy` made.
    """
    n, v = logits.shape
    with ctx.scratch():
        part, mean = ctx.empty((n, 1)), ctx.empty((n,))
        index, picked = ctx.empty((n,), np.intp), ctx.empty((n,))
        np.multiply(weights, scale * share / v, out=part[:, 0])
        np.subtract(dlogits, part, out=dlogits)
        np.multiply(ctx.counting(n), v, out=index)
        index += targets
        part *= v
        dlogits.reshape(-1)[index] += part[:, 0]
        np.take(logits.reshape(-1), index, out=picked, mode="clip")
        np.matmul(logits, ctx.ones(v), out=mean)
        mean *= 1 / v
        picked -= mean
        return share * float(np.dot(picked, weights))
