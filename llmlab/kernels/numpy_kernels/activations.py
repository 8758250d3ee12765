"""Element-wise functions between two products."""

from math import pi, sqrt
from typing import Any

import numpy as np

BLOCK = 1 << 14  # items at a time, so that temporaries stay in the second-level cache


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


def gelu(ctx: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), and its derivative as the cache.

    Both share most of their work, so the derivative is made here (Hendrycks and Gimpel 2016,
    arXiv:1606.08415).
    """
    a, b = sqrt(2 / pi), sqrt(2 / pi) * 0.044715
    y, slope = ctx.empty(x.shape), ctx.empty(x.shape)
    flat, out, dout = x.reshape(-1), y.reshape(-1), slope.reshape(-1)
    with ctx.scratch():
        scratch = ctx.empty((2, min(BLOCK, x.size)))
        for start in range(0, x.size, BLOCK):
            part = slice(start, start + BLOCK)
            xc, yc, d = flat[part], out[part], dout[part]
            square, t = scratch[0, : len(xc)], scratch[1, : len(xc)]
            np.multiply(xc, xc, out=square)
            np.multiply(square, b, out=t)
            t += a
            t *= xc
            np.tanh(t, out=t)
            # The derivative of the argument, times x / 2.
            square *= 1.5 * b
            square += 0.5 * a
            square *= xc
            np.multiply(t, t, out=d)
            np.subtract(1, d, out=d)
            d *= square
            t += 1
            t *= 0.5
            d += t
            np.multiply(xc, t, out=yc)
    return y, slope


def gelu_backward(ctx: Any, dy: np.ndarray, cache: np.ndarray) -> np.ndarray:
    """Return dy times the derivative."""
    dx = ctx.empty(dy.shape)
    np.multiply(dy, cache, out=dx)
    return dx
