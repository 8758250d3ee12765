"""Zeroing at random."""

from typing import Any

import numpy as np


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
