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
    decay: float = 0.0,
) -> None:
    """Update p, m and v in place by Adam's rule for the gradient scale · g at step t ≥ 1.

    p loses the share `decay` of itself first (AdamW).

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
            if decay:
                pc *= 1 - decay
            pc -= t1


def sgd(
    ctx: Any,
    p: np.ndarray,
    g: np.ndarray,
    m: np.ndarray | None,
    lr: float,
    momentum: float,
    nesterov: bool,
    scale: float,
    decay: float,
) -> None:
    """Update p and m in place: d = scale · g + decay · p, m = momentum · m + d, p −= lr · m.

    With `nesterov` p −= lr · (d + momentum · m); without m, p −= lr · d.
    """
    with ctx.scratch():
        scratch = ctx.empty((2, min(CHUNK, len(p))))
        for start in range(0, len(p), CHUNK):
            part = slice(start, start + CHUNK)
            pc, gc = p[part], g[part]
            d, t1 = scratch[0, : len(pc)], scratch[1, : len(pc)]
            np.multiply(gc, scale, out=d)
            if decay:
                np.multiply(pc, decay, out=t1)
                d += t1
            if m is not None:
                mc = m[part]
                mc *= momentum
                mc += d
                if nesterov:
                    np.multiply(mc, momentum, out=t1)
                    d += t1
                else:
                    np.copyto(d, mc)
            d *= lr
            pc -= d


def lion(
    ctx: Any,
    p: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    lr: float,
    betas: tuple[float, float],
    scale: float,
    decay: float,
) -> None:
    """Update p and m in place by Lion's rule: p −= decay · p + lr · sign(β₁ m + (1 − β₁) g)."""
    b1, b2 = betas
    with ctx.scratch():
        scratch = ctx.empty((2, min(CHUNK, len(p))))
        for start in range(0, len(p), CHUNK):
            part = slice(start, start + CHUNK)
            pc, gc, mc = p[part], g[part], m[part]
            d, t1 = scratch[0, : len(pc)], scratch[1, : len(pc)]
            np.multiply(gc, scale, out=d)
            np.multiply(mc, b1, out=t1)
            mc *= b2
            d *= 1 - b2
            mc += d
            d *= (1 - b1) / (1 - b2)
            t1 += d
            np.sign(t1, out=t1)
            t1 *= lr
            if decay:
                pc *= 1 - decay
            pc -= t1


def average(ctx: Any, mean: np.ndarray, p: np.ndarray, decay: float) -> None:
    """Move `mean` towards p in place: mean = decay · mean + (1 − decay) · p."""
    with ctx.scratch():
        scratch = ctx.empty((min(CHUNK, len(p)),))
        for start in range(0, len(p), CHUNK):
            part = slice(start, start + CHUNK)
            t1 = scratch[: len(p[part])]
            np.subtract(p[part], mean[part], out=t1)
            t1 *= 1 - decay
            mean[part] += t1
