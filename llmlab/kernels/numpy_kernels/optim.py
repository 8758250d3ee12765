"""Updates of flat vectors, in place."""

from math import sqrt
from typing import Any

import numpy as np

CHUNK = 1 << 16  # items of a vector that an optimizer treats at a time, to stay in cache


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
    """Update p, m and v in place by Adam's rule for the gradient scale · g at step t ≥ 1.

    m and v are kept divided by (1 − β): plain sums m = Σ β₁ᵏ g, v = Σ β₂ᵏ g², whose factors go
    into the step and into eps. That saves two of twelve passes over memory.
    """
    b1, b2 = betas
    root = sqrt((1 - b2**t) / (1 - b2))
    rate, eps = lr * root * (1 - b1) / (1 - b1**t), eps * root
    with ctx.scratch():
        scratch = ctx.empty((min(CHUNK, len(p)),))
        for start in range(0, len(p), CHUNK):
            part = slice(start, start + CHUNK)
            pc, gc, mc, vc = p[part], g[part], m[part], v[part]
            t1 = scratch[: len(pc)]
            mc *= b1
            vc *= b2
            if scale == 1:
                mc += gc
                np.multiply(gc, gc, out=t1)
            else:
                np.multiply(gc, scale, out=t1)
                mc += t1
                t1 *= t1
            vc += t1
            np.sqrt(vc, out=t1)
            t1 += eps
            np.divide(mc, t1, out=t1)
            t1 *= rate
            pc -= t1
