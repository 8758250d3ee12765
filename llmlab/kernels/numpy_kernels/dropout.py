"""Zeroing at random."""

from typing import Any

import numpy as np

RESERVED = 1 << 40  # 8-byte words of a row's stream that belong to each use of dropout


def dropout_mask(ctx: Any, size: int, rate: float) -> np.ndarray:
    """Return (B, size) of 0, with probability `rate`, and 1 / (1 − rate).

    Each row of the batch draws from its own generator. However much it draws, the next mask
    begins at the same place of its stream: so a row's masks depend neither on how the batch is
    divided nor on how far the row is padded.
    """
    mask = ctx.empty((ctx.batch, size))
    words = -(-size * mask.itemsize // 8)
    for row, rng in zip(mask, ctx.rng, strict=True):
        rng.random(dtype=row.dtype, out=row)
        rng.bit_generator.advance(RESERVED - words)
    np.greater_equal(mask, rate, out=mask, casting="unsafe")
    mask *= 1 / (1 - rate)
    return mask


def dropout(ctx: Any, x: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Return x with a share `rate` of it zeroed and the rest scaled by 1 / (1 − rate).

    Without generators, or at rate 0, it is a copy.
    """
    y = ctx.empty(x.shape)
    if ctx.rng is None or rate == 0:
        np.copyto(y, x)
        return y, None
    mask = dropout_mask(ctx, x.size // ctx.batch, rate).reshape(x.shape)
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
