"""Normalisations of rows."""

from typing import Any

import numpy as np


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
    np.vecdot(normed, normed, out=flat)
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


def rms_norm(
    ctx: Any, x: np.ndarray, weight: np.ndarray, eps: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return weight · x / √(mean(x²) + eps), each row of (N, C) by itself."""
    n, c = x.shape
    y, normed, inverse = ctx.empty((n, c)), ctx.empty((n, c)), ctx.empty((n, 1))
    flat = inverse[:, 0]
    np.vecdot(x, x, out=flat)
    flat *= 1 / c
    flat += eps
    np.sqrt(flat, out=flat)
    np.reciprocal(flat, out=flat)
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
