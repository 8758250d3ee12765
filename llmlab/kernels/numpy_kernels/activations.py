"""Element-wise functions between two products, in place: x becomes y, dy becomes dx."""

from math import pi, sqrt
from typing import Any

import numpy as np

BLOCK = 1 << 15  # items at a time, so that temporaries stay in the second-level cache

# exp(z²) · erfc(z) ≈ P(z) / Q(z) for z ≥ 0, lowest power first; made for this file by iterated
# weighted least squares in 40 digits. The error of erfc is below 6e-17, and 6e-10 in the short
# form. All terms are positive, so that nothing cancels.
ERFC = (
    (
        *(1.0, 1.41908678653521545, 1.0159379643185163, 0.434321752759491526),
        *(0.115325207145211373, 0.0178995422422309081, 0.00127262596130475293),
    ),
    (
        *(1.0, 2.54746595363074044, 2.89044547527983201, 1.90062703513954609),
        *(0.785846023194377868, 0.205518562512574502, 0.0317273605793694805),
        0.0022556279406964659,
    ),
)
ERFC_SHORT = (
    (0.999999999563085731, 0.840602515595350567, 0.344800131996211121, 0.0559167878430168049),
    (
        *(1.0, 1.96898161347724727, 1.56655969818298702, 0.606844936963935721),
        0.0994414593106148651,
    ),
)
FAR = 39.6  # exp(−x² / 2) is 0 from here on, and powers of x must not overflow


def _starts(x: np.ndarray) -> range:
    """Return where blocks begin; an array that is one number everywhere needs a single block."""
    return range(0, x.size if any(x.strides) else min(x.size, 1), BLOCK)


def relu(ctx: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn x into max(x, 0), which is also the cache."""
    np.maximum(x, 0, out=x)
    return x, x


def relu_backward(ctx: Any, dy: np.ndarray, cache: np.ndarray) -> np.ndarray:
    """Keep dy where the output was positive, else 0."""
    with ctx.scratch():
        positive = ctx.empty(dy.shape, np.bool_)
        np.greater(cache, 0, out=positive)
        np.multiply(dy, positive, out=dy)
    return dy


def gelu_tanh(ctx: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn x into x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))); the cache is the derivative.

    Both share most of their work, so it is made here (Hendrycks and Gimpel 2016,
    arXiv:1606.08415).
    """
    a, b = sqrt(2 / pi), sqrt(2 / pi) * 0.044715
    sloped, slope = _wants_slope(ctx), ctx.empty(x.shape)
    flat, dout = x.reshape(-1), slope.reshape(-1)
    with ctx.scratch():
        scratch = ctx.empty((2, min(BLOCK, x.size)))
        for start in _starts(x):
            part = slice(start, start + BLOCK)
            xc, d = flat[part], dout[part]
            square, t = scratch[0, : len(xc)], scratch[1, : len(xc)]
            np.multiply(xc, xc, out=square)
            np.multiply(square, b, out=t)
            t += a
            t *= xc
            np.tanh(t, out=t)
            if sloped:
                # The derivative of the argument, times x / 2.
                square *= 1.5 * b
                square += 0.5 * a
                square *= xc
                np.multiply(t, t, out=d)
                np.subtract(1, d, out=d)
                d *= square
            t += 1
            t *= 0.5
            if sloped:
                d += t
            xc *= t
    return x, slope


def _wants_slope(ctx: Any) -> bool:
    """Tell whether a backward pass may follow; after decoding none does."""
    return ctx.kv_cache is None


def multiply_slope(ctx: Any, dy: np.ndarray, cache: np.ndarray) -> np.ndarray:
    """Multiply dy by the derivative, where that is the cache."""
    return np.multiply(dy, cache, out=dy)


def gelu(ctx: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn x into x · Φ(x); the cache is the derivative Φ(x) + x · φ(x).

    Φ is the normal distribution, (1 + erf(x / √2)) / 2; NumPy has no erf (Hendrycks and Gimpel
    2016, arXiv:1606.08415).
    """
    top, bottom = ERFC if x.dtype == np.float64 else ERFC_SHORT
    # In powers of |x| instead of |x| / √2, and times ½.
    top = [0.5 * c * 0.5 ** (0.5 * power) for power, c in enumerate(top)]
    bottom = [c * 0.5 ** (0.5 * power) for power, c in enumerate(bottom)]
    slope = ctx.empty(x.shape)
    flat, dout = x.reshape(-1), slope.reshape(-1)
    with ctx.scratch():
        scratch = ctx.empty((3, min(BLOCK, x.size)))
        for start in _starts(x):
            part = slice(start, start + BLOCK)
            xc, d = flat[part], dout[part]
            far, tail, bell = (row[: len(xc)] for row in scratch)
            np.abs(xc, out=far)
            np.minimum(far, FAR, out=far)
            np.multiply(far, far, out=bell)
            bell *= -0.5
            np.exp(bell, out=bell)
            _horner(top, far, tail)
            tail *= bell
            _horner(bottom, far, d)
            tail /= d
            # Φ(|x|) = ½ + half, and half changes its sign with x.
            half = np.subtract(0.5, tail, out=tail)
            bell *= 1 / sqrt(2 * pi)
            np.multiply(far, bell, out=d)
            d += half
            np.copysign(d, xc, out=d)
            d += 0.5
            np.abs(xc, out=far)
            half *= far
            xc *= 0.5
            xc += half
    return x, slope


def _horner(coefficients: list[float], x: np.ndarray, out: np.ndarray) -> None:
    """Write the polynomial, lowest power first, to `out`."""
    np.multiply(x, coefficients[-1], out=out)
    out += coefficients[-2]
    for c in coefficients[-3::-1]:
        out *= x
        out += c


def silu(ctx: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn x into x · σ(x); the cache is the derivative σ(x) · (1 + x · (1 − σ(x))).

    σ is the logistic function, here (1 + tanh(x / 2)) / 2, which can't overflow (Elfwing et al.
    2017, arXiv:1702.03118).
    """
    sloped, slope = _wants_slope(ctx), ctx.empty(x.shape)
    flat, dout = x.reshape(-1), slope.reshape(-1)
    with ctx.scratch():
        scratch = ctx.empty((min(BLOCK, x.size),))
        for start in _starts(x):
            part = slice(start, start + BLOCK)
            xc, d = flat[part], dout[part]
            s = scratch[: len(xc)]
            np.multiply(xc, 0.5, out=s)
            np.tanh(s, out=s)
            s *= 0.5
            s += 0.5
            if sloped:
                np.subtract(1, s, out=d)
                d *= xc
                d += 1
                d *= s
            xc *= s
    return x, slope


def relu_squared(ctx: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn x into max(x, 0)²; the cache is the derivative 2 · max(x, 0) (So et al. 2021)."""
    slope = ctx.empty(x.shape)
    np.maximum(x, 0, out=slope)
    np.multiply(slope, slope, out=x)
    slope *= 2
    return x, slope
