"""Element-wise functions between two products, in place; see the reference."""

from math import pi, sqrt

import numpy as np

from llmlab.kernels import numpy_kernels as reference
from llmlab.kernels.numba_kernels.compiler import compiled, exp32
from llmlab.kernels.numpy_kernels.activations import ERFC_SHORT, FAR

_A = np.float32(sqrt(2 / pi))
_B = np.float32(sqrt(2 / pi) * 0.044715)

# In powers of |x| instead of |x| / √2.
_P, _Q = (
    tuple(np.float32(c * 0.5 ** (0.5 * power)) for power, c in enumerate(part))
    for part in ERFC_SHORT
)
_FAR = np.float32(FAR)
_BELL = np.float32(1 / sqrt(2 * pi))

relu = reference.relu
multiply_slope = reference.multiply_slope


def relu_backward(ctx, dy, cache):
    """Keep dy where the output was positive, else 0."""
    _relu_backward(dy.reshape(-1), cache.reshape(-1))
    return dy


def gelu_tanh(ctx, x):
    """Turn x into its GELU (tanh form); the cache is the derivative."""
    return _sloped(_gelu_tanh, reference.gelu_tanh, ctx, x)


def gelu(ctx, x):
    """Turn x into its GELU (exact form); the cache is the derivative."""
    return _sloped(_gelu, reference.gelu, ctx, x)


def silu(ctx, x):
    """Turn x into x · σ(x); the cache is the derivative."""
    return _sloped(_silu, reference.silu, ctx, x)


def relu_squared(ctx, x):
    """Turn x into max(x, 0)²; the cache is the derivative."""
    return _sloped(_relu_squared, reference.relu_squared, ctx, x)


def _sloped(kernel, plain, ctx, x):
    if x.dtype != np.float32:
        return plain(ctx, x)
    slope = ctx.empty(x.shape)
    kernel(x.reshape(-1), slope.reshape(-1))
    return x, slope


@compiled
def _relu_backward(dy, y):
    for i in range(dy.size):
        dy[i] = dy[i] if y[i] > 0 else 0


@compiled
def _relu_squared(x, slope):
    for i in range(x.size):
        v = x[i]
        # Written so that NaN stays NaN.
        v = np.float32(0) if v <= 0 else v
        slope[i] = v + v
        x[i] = v * v


@compiled
def _gelu_tanh(x, slope):
    one, two, three = np.float32(1), np.float32(2), np.float32(3)
    for i in range(x.size):
        v = x[i]
        square = v * v
        u = v * (_A + _B * square)
        # (1 + tanh u) / 2 is the logistic function of 2u.
        s = one / (one + exp32(-(u + u)))
        x[i] = v * s
        slope[i] = s + two * s * (one - s) * v * (_A + three * _B * square)


@compiled
def _gelu(x, slope):
    half, one = np.float32(0.5), np.float32(1)
    for i in range(x.size):
        v = x[i]
        z = min(abs(v), _FAR)
        bell = exp32(-half * z * z)
        top = ((_P[3] * z + _P[2]) * z + _P[1]) * z + _P[0]
        bottom = (((_Q[4] * z + _Q[3]) * z + _Q[2]) * z + _Q[1]) * z + _Q[0]
        tail = half * bell * top / bottom
        normal = tail if v < 0 else one - tail
        # Comparisons with NaN are false, so it may have been clipped to a number above.
        normal = normal if v == v else v
        x[i] = v * normal
        slope[i] = normal + (-z if v < 0 else z) * bell * _BELL


@compiled
def _silu(x, slope):
    one = np.float32(1)
    for i in range(x.size):
        v = x[i]
        s = one / (one + exp32(-v))
        x[i] = v * s
        slope[i] = s * (one + v * (one - s))
