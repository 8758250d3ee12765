"""Turning pairs of values by an angle, in one pass."""

import numpy as np

from llmlab.kernels import numpy_kernels as reference
from llmlab.kernels.numba_kernels.compiler import compiled


def rotate(ctx, rows, heads, cos, sin, interleaved, back):
    """Turn pairs of the first `heads` heads in place; see the reference."""
    if rows.dtype != np.float32 or not rows.flags.c_contiguous:
        reference.rotate(ctx, rows, heads, cos, sin, interleaved, back)
        return
    sign = np.float32(-1 if back else 1)
    cos, sin = cos.reshape(-1, cos.shape[-1]), sin.reshape(-1, sin.shape[-1])
    if interleaved:
        _rotate_neighbours(rows, heads, cos, sin, sign)
    else:
        _rotate_halves(rows, heads, cos, sin, sign)


@compiled
def _rotate_halves(rows, heads, cos, sin, sign):
    angles, half = cos.shape
    for i in range(rows.shape[0]):
        t = i % angles
        for h in range(heads):
            at = 2 * half * h
            for j in range(half):
                a, b = rows[i, at + j], rows[i, at + half + j]
                c, s = cos[t, j], sign * sin[t, j]
                rows[i, at + j] = a * c - b * s
                rows[i, at + half + j] = b * c + a * s


@compiled
def _rotate_neighbours(rows, heads, cos, sin, sign):
    angles, half = cos.shape
    for i in range(rows.shape[0]):
        t = i % angles
        for h in range(heads):
            at = 2 * half * h
            for j in range(half):
                a, b = rows[i, at + 2 * j], rows[i, at + 2 * j + 1]
                c, s = cos[t, j], sign * sin[t, j]
                rows[i, at + 2 * j] = a * c - b * s
                rows[i, at + 2 * j + 1] = b * c + a * s
