"""The reference kernels, in NumPy.

Shape legend: N rows (B·T), C embedding, V vocabulary, K key/value heads, G query heads for
each of them, D head width, Q queries of a block, L keys.

Every function returns arrays from `ctx`, except those that say that they work in place.
Gradients of parameters are added to, as in the layers.
"""

from math import sqrt
from typing import Any

import numpy as np

CHUNK = 1 << 17  # items of a vector that an optimizer treats at a time, to stay in cache


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write the matrix product a @ b to `out`."""
    return np.matmul(a, b, out=out)


def row_sums(ctx: Any, x: np.ndarray) -> np.ndarray:
    """Return the sums over the last axis, by a product with ones: numpy's sum is slower."""
    out = ctx.empty(x.shape[:-1])
    return np.matmul(x, ctx.ones(x.shape[-1]), out=out)


def relu(ctx: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return max(x, 0), and itself as the cache."""
    y = ctx.empty(x.shape)
    np.maximum(x, 0, out=y)
    return y, y


def relu_backward(ctx: Any, dy: np.ndarray, cache: np.ndarray) -> np.ndarray:
    """Return dy where the output was positive, else 0."""
    dx = ctx.empty(dy.shape)
    with ctx.scratch():
        positive = ctx.empty(dy.shape, np.bool_)
        np.greater(cache, 0, out=positive)
        np.multiply(dy, positive, out=dx)
    return dx


def layer_norm(
    ctx: Any, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return weight · (x − mean) / √(variance + eps) + bias, each row of (N, C) by itself."""
    n, c = x.shape
    normed, inverse = ctx.empty((n, c)), ctx.empty((n, 1))
    y = ctx.empty((n, c))
    with ctx.scratch():
        mean = ctx.empty((n,))
        np.matmul(x, ctx.ones(c), out=mean)
        mean *= 1 / c
        np.subtract(x, mean[:, None], out=normed)
    flat = inverse[:, 0]
    np.einsum("ij,ij->i", normed, normed, out=flat)
    flat *= 1 / c
    flat += eps
    np.sqrt(flat, out=flat)
    np.reciprocal(flat, out=flat)
    normed *= inverse
    np.multiply(normed, weight, out=y)
    if bias is not None:
        y += bias
    return y, (normed, inverse)


def layer_norm_backward(
    ctx: Any,
    dy: np.ndarray,
    weight: np.ndarray,
    cache: tuple[np.ndarray, np.ndarray],
    dweight: np.ndarray,
    dbias: np.ndarray | None,
) -> np.ndarray:
    """Return dx = (h − mean(h) − x̂ · mean(h · x̂)) / √(variance + eps) with h = weight · dy."""
    normed, inverse = cache
    n, c = dy.shape
    dx = ctx.empty((n, c))
    with ctx.scratch():
        part, mean = ctx.empty((n, c)), ctx.empty((n, 1))
        np.multiply(dy, normed, out=part)
        ctx.add_product(ctx.ones(n), part, dweight)
        if dbias is not None:
            ctx.add_product(ctx.ones(n), dy, dbias)
        np.multiply(dy, weight, out=dx)
        np.matmul(dy, weight, out=mean[:, 0])
        mean *= 1 / c
        dx -= mean
        np.matmul(part, weight, out=mean[:, 0])
        mean *= 1 / c
        np.multiply(normed, mean, out=part)
        dx -= part
        dx *= inverse
    return dx


def softmax(ctx: Any, scores: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Turn scores (…, Q, L) into probabilities, in place.

    `mask` (…, Q, M), 0 or −inf, is added to the last M keys first.
    """
    if mask is not None:
        tail = scores[..., scores.shape[-1] - mask.shape[-1] :]
        np.add(tail, mask, out=tail)
    with ctx.scratch():
        row = ctx.empty((*scores.shape[:-1], 1))
        np.maximum.reduce(scores, axis=-1, keepdims=True, out=row)
        np.subtract(scores, row, out=scores)
        np.exp(scores, out=scores)
        np.matmul(scores, ctx.ones(scores.shape[-1]), out=row[..., 0])
        np.divide(scores, row, out=scores)
    return scores


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
        row, picked = ctx.empty((n, 1)), ctx.empty((n,))
        index = ctx.empty((n,), np.intp)
        np.multiply(np.arange(n), logits.shape[1], out=index)
        index += targets
        np.maximum.reduce(logits, axis=1, keepdims=True, out=row)
        np.subtract(logits, row, out=dlogits)
        np.take(dlogits.reshape(-1), index, out=picked, mode="clip")
        np.exp(dlogits, out=dlogits)
        sums = row[:, 0]
        np.matmul(dlogits, ctx.ones(logits.shape[1]), out=sums)
        factor = ctx.empty((n, 1))
        np.multiply(weights, scale, out=factor[:, 0])
        dlogits.reshape(-1)[index] -= sums
        np.divide(factor, row, out=factor)
        dlogits *= factor
        np.log(sums, out=sums)
        sums -= picked
        loss = float(np.dot(sums, weights))
    return loss, dlogits


def dropout(ctx: Any, x: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Return x with a share `rate` of it zeroed and the rest scaled by 1 / (1 − rate).

    Each row of the batch draws from its own generator, so the mask doesn't depend on how the
    batch is divided. Without generators, or at rate 0, it is a copy.
    """
    y = ctx.empty(x.shape)
    if ctx.rng is None or rate == 0:
        np.copyto(y, x)
        return y, None
    mask = ctx.empty(x.shape)
    for row, rng in zip(mask.reshape(ctx.batch, -1), ctx.rng, strict=True):
        rng.random(dtype=row.dtype, out=row)
    np.greater_equal(mask, rate, out=mask, casting="unsafe")
    mask *= 1 / (1 - rate)
    np.multiply(x, mask, out=y)
    return y, mask


def dropout_backward(ctx: Any, dy: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return dy through the same mask."""
    dx = ctx.empty(dy.shape)
    if mask is None:
        np.copyto(dx, dy)
    else:
        np.multiply(dy, mask, out=dx)
    return dx


def add_rows(ctx: Any, index: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Add rows (N, C) to out[index] (V, C), rows of the same index in a fixed order."""
    n, vocabulary = len(index), len(out)
    if n * vocabulary <= 1 << 18:
        with ctx.scratch():
            onehot = ctx.empty((vocabulary, n))
            onehot.fill(0)
            onehot[index, np.arange(n)] = 1
            ctx.add_product(onehot, rows, out)
        return
    out = ctx.gradient(out)
    order = np.argsort(index, kind="stable")
    ids = index[order]
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    with ctx.scratch():
        ordered = ctx.empty(rows.shape)
        np.take(rows, order, axis=0, out=ordered, mode="clip")
        out[ids[starts]] += np.add.reduceat(ordered, starts, axis=0)


def adam(
    ctx: Any,
    p: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    t: int,
    scale: float,
) -> None:
    """Update p, m and v in place by Adam's rule for the gradient scale · g at step t ≥ 1."""
    b1, b2 = betas
    root = sqrt(1 - b2**t)
    rate, eps = lr * root / (1 - b1**t), eps * root
    with ctx.scratch():
        scratch = ctx.empty((min(CHUNK, len(p)),))
        for start in range(0, len(p), CHUNK):
            part = slice(start, start + CHUNK)
            pc, gc, mc, vc = p[part], g[part], m[part], v[part]
            t1 = scratch[: len(pc)]
            mc *= b1
            np.multiply(gc, (1 - b1) * scale, out=t1)
            mc += t1
            vc *= b2
            np.multiply(gc, gc, out=t1)
            t1 *= (1 - b2) * scale * scale
            vc += t1
            np.sqrt(vc, out=t1)
            t1 += eps
            np.divide(mc, t1, out=t1)
            t1 *= rate
            pc -= t1
