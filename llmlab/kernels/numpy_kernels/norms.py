"""Normalisations of rows."""

from math import sqrt
from typing import Any

import numpy as np


def layer_norm(
    ctx: Any, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return weight · (x − mean) / √(variance + eps) + bias, each row of (N, C) by itself."""
    n, c = x.shape
    y, normed, inverse = ctx.empty((n, c)), ctx.empty((n, c)), ctx.empty((n, 1))
    flat = inverse[:, 0]  # holds the mean first
    np.matmul(x, ctx.shares(c), out=flat)
    np.subtract(x, inverse, out=normed)
    _inverse(normed, eps, flat)
    np.multiply(normed, inverse, out=normed)
    np.multiply(normed, weight, out=y)
    if bias is not None:
        np.add(y, bias, out=y)
    return y, (normed, inverse)


def _inverse(x: np.ndarray, eps: float, out: np.ndarray) -> None:
    """Write 1 / √(mean(x²) + eps) of each row to `out` (N,), in few calls: rows may be few."""
    c = x.shape[1]
    np.vecdot(x, x, out=out)
    np.add(out, c * eps, out=out)
    np.sqrt(out, out=out)
    np.divide(sqrt(c), out, out=out)


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


def rms_norm(
    ctx: Any, x: np.ndarray, weight: np.ndarray, eps: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return weight · x / √(mean(x²) + eps), each row of (N, C) by itself."""
    n, c = x.shape
    y, normed, inverse = ctx.empty((n, c)), ctx.empty((n, c)), ctx.empty((n, 1))
    _inverse(x, eps, inverse[:, 0])
    np.multiply(x, inverse, out=normed)
    np.multiply(normed, weight, out=y)
    return y, (normed, inverse)


def rms_norm_backward(
    ctx: Any,
    dy: np.ndarray,
    weight: np.ndarray,
    cache: tuple[np.ndarray, np.ndarray],
    dweight: np.ndarray,
) -> np.ndarray:
    """Return dx = (h − x̂ · mean(h · x̂)) / √(mean(x²) + eps) with h = weight · dy."""
    normed, inverse = cache
    n, c = dy.shape
    dx = ctx.empty((n, c))
    with ctx.scratch():
        part, mean = ctx.empty((n, c)), ctx.empty((n, 1))
        np.multiply(dy, normed, out=part)
        ctx.add_product(ctx.ones(n), part, dweight)
        np.multiply(dy, weight, out=dx)
        np.matmul(part, weight, out=mean[:, 0])
        mean *= 1 / c
        np.multiply(normed, mean, out=part)
        dx -= part
        dx *= inverse
    return dx
