"""Softmax over keys, and the loss, a softmax over the vocabulary."""

from typing import Any

import numpy as np

SMALL = 1 << 13  # items below which the number of calls is what counts
MODERATE = 40.0  # exp of ± this, and a sum of a billion of it, are ordinary float32 numbers


def softmax(ctx: Any, scores: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Turn scores (…, Q, L) into probabilities, in place.

    `mask` (…, Q, M), 0 or −inf, is added to the last M keys first. Only scores that are large
    somewhere are shifted by the maximum of their row, which costs as much as all the rest.
    """
    shifted = not moderate(scores)
    if mask is not None:
        tail = scores[..., scores.shape[-1] - mask.shape[-1] :]
        np.add(tail, mask, out=tail)
    with ctx.scratch():
        row = ctx.empty((*scores.shape[:-1], 1))
        if shifted:
            row_maxima(ctx, scores.reshape(-1, scores.shape[-1]), row.reshape(-1))
            np.subtract(scores, row, out=scores)
        np.exp(scores, out=scores)
        np.matmul(scores, ctx.ones(scores.shape[-1]), out=row[..., 0])
        np.divide(scores, row, out=scores)
    return scores


def moderate(x: np.ndarray) -> bool:
    """Tell whether exp of every number of a contiguous array is safe to sum; of NaN it isn't."""
    flat = x.reshape(-1)
    high, low = np.maximum.reduce(flat, initial=0), np.minimum.reduce(flat, initial=0)
    return bool(high < MODERATE and low > -MODERATE)


def row_maxima(ctx: Any, x: np.ndarray, out: np.ndarray) -> None:
    """Write the greatest value of each row (N, M) to `out` (N,).

    Where it is, then what it is: numpy's argmax of short rows takes a quarter of its max's time.
    """
    n, m = x.shape
    if x.size < SMALL:
        np.maximum.reduce(x, axis=1, out=out)
        return
    with ctx.scratch():
        index, start = ctx.empty((2, n), np.intp)
        np.argmax(x, axis=1, out=index)
        np.multiply(ctx.counting(n), m, out=start)
        index += start
        np.take(x.reshape(-1), index, out=out, mode="clip")


def softmax_backward(
    ctx: Any, dprobabilities: np.ndarray, probabilities: np.ndarray, dots: np.ndarray
) -> np.ndarray:
    """Turn dprobabilities (…, Q, L) into dscores, in place.

    `dots` (…, Q, 1) are the row sums of dprobabilities · probabilities.
    """
    np.subtract(dprobabilities, dots, out=dprobabilities)
    np.multiply(dprobabilities, probabilities, out=dprobabilities)
    return dprobabilities


def cross_entropy(
    ctx: Any, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, scale: float
) -> tuple[float, np.ndarray]:
    """Return the sum of weighted negative log likelihoods (nats) and `scale` times its gradient.

    Parameters
    ----------
    logits
        (N, V).
    targets
        (N,) token ids.
    weights
        (N,), 0 for padding.
    scale
        One over the whole batch's weight, so that shards simply add.
    """
    n = len(logits)
    dlogits = ctx.empty(logits.shape)
    with ctx.scratch():
        row, picked, target = ctx.empty((n, 1)), ctx.empty((n,)), ctx.empty((n,))
        index = ctx.empty((n,), np.intp)
        np.multiply(ctx.counting(n), logits.shape[1], out=index)
        index += targets
        shifted = logits
        if not moderate(logits):
            row_maxima(ctx, logits, row[:, 0])
            shifted = np.subtract(logits, row, out=dlogits)
        np.take(shifted.reshape(-1), index, out=picked, mode="clip")
        np.exp(shifted, out=dlogits)
        sums = row[:, 0]
        np.matmul(dlogits, ctx.ones(logits.shape[1]), out=sums)
        factor = ctx.empty((n, 1))
        np.multiply(weights, scale, out=factor[:, 0])
        np.take(dlogits.reshape(-1), index, out=target, mode="clip")
        target -= sums
        dlogits.reshape(-1)[index] = target
        np.divide(factor, row, out=factor)
        dlogits *= factor
        # In float64: the difference of two large numbers, where a token is well predicted.
        each = ctx.empty((n,), np.float64)
        np.copyto(each, sums)
        np.log(each, out=each)
        each -= picked
        each *= weights
        loss = float(np.add.reduce(each))
    return loss, dlogits
