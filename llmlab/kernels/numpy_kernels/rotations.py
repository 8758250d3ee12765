"""Turning pairs of values by an angle."""

from typing import Any

import numpy as np


def rotate(
    ctx: Any,
    rows: np.ndarray,  # (B·T, W), of which the first `heads` · D columns are turned
    heads: int,
    # (1 or B, T, D / 2)
    cos: np.ndarray,
    sin: np.ndarray,
    interleaved: bool,  # whether a pair is two neighbours of a head, or lies half a head apart
    back: bool,
) -> None:
    """Turn pairs (a, b) to (a cos − b sin, b cos + a sin) in place; `back` is the inverse."""
    batch, time, half = ctx.batch, ctx.time, cos.shape[-1]
    x = rows.reshape(batch, time, -1, 2 * half)[:, :, :heads]
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    cos, sin = cos[:, :, None], sin[:, :, None]
    with ctx.scratch():
        asin, bsin = ctx.empty(a.shape), ctx.empty(a.shape)
        np.multiply(a, sin, out=asin)
        np.multiply(b, sin, out=bsin)
        np.multiply(a, cos, out=a)
        np.multiply(b, cos, out=b)
        if back:
            np.add(a, bsin, out=a)
            np.subtract(b, asin, out=b)
        else:
            np.subtract(a, bsin, out=a)
            np.add(b, asin, out=b)
