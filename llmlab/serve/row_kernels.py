"""Kernels whose result for a row doesn't depend on the rows beside it, to the last bit.

A matrix product's last bits depend on how many rows it has, a fast softmax's on whether any row
has large scores. So requests that are decoded together would change each other's texts.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from llmlab.kernels import numpy_kernels

BLOCK = 4  # rows of a product, padded
LARGE = 1 << 18  # items of a matrix from which on reordering it costs more than reading it anew


def row_kernels() -> SimpleNamespace:
    """Return the reference kernels with those replaced that look at several rows."""
    own = {"product": product, "softmax": softmax, "layer_norm": layer_norm}
    names = numpy_kernels.__all__
    return SimpleNamespace(**{name: getattr(numpy_kernels, name) for name in names} | own)


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write a @ b to `out`, rows (N, K) in blocks of a fixed size; the last block is padded.

    For a large matrix the blocks are single rows: BLAS copies it before it multiplies rows with
    it, and doesn't for one.
    """
    if a.ndim != 2 or b.ndim != 2:
        return np.matmul(a, b, out=out)  # a product for each row already
    if b.size > LARGE:
        np.matmul(a[:, None], b, out=out[:, None])
        return out
    whole = len(a) - len(a) % BLOCK
    for start in range(0, whole, BLOCK):
        part = slice(start, start + BLOCK)
        np.matmul(a[part], b, out=out[part])
    if whole < len(a):
        rest = np.zeros((BLOCK, a.shape[1]), a.dtype)
        rest[: len(a) - whole] = a[whole:]
        out[whole:] = np.matmul(rest, b)[: len(a) - whole]
    return out


def softmax(ctx: Any, scores: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Turn scores (…, Q, L) into probabilities, in place; `mask` goes onto the last keys."""
    if mask is not None:
        tail = scores[..., scores.shape[-1] - mask.shape[-1] :]
        np.add(tail, mask, out=tail)
    np.subtract(scores, np.maximum.reduce(scores, axis=-1, keepdims=True), out=scores)
    np.exp(scores, out=scores)
    np.divide(scores, np.add.reduce(scores, axis=-1, keepdims=True), out=scores)
    return scores


def layer_norm(
    ctx: Any, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, None]:
    """Return weight · (x − mean) / √(variance + eps) + bias; nothing is kept for backward."""
    y = np.subtract(x, np.vecdot(x, ctx.shares(x.shape[1]))[:, None], out=ctx.empty(x.shape))
    square = np.vecdot(y, ctx.shares(x.shape[1]) * y)[:, None]
    np.divide(y, np.sqrt(square + x.dtype.type(eps)), out=y)
    np.multiply(y, weight, out=y)
    if bias is not None:
        np.add(y, bias, out=y)
    return y, None
