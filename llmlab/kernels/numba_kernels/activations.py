"""Element-wise functions between two products."""

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
relu_squared = reference.relu_squared
gelu_backward = reference.gelu_backward


def relu_backward(ctx, dy, cache):
    """Return dy where the output was positive, else 0."""
    dx = ctx.empty(dy.shape)
    _relu_backward(dy.reshape(-1), cache.reshape(-1), dx.reshape(-1))
    return dx


def gelu(ctx, x):
    """Return GELU (tanh form), and its derivative as the cache."""
    if x.dtype != np.float32:
        return reference.gelu(ctx, x)
    y, slope = ctx.empty(x.shape), ctx.empty(x.shape)
    _gelu(x.reshape(-1), y.reshape(-1), slope.reshape(-1))
    return y, slope


def gelu_erf(ctx, x):
    """Return GELU (erf form), and its derivative as the cache."""
    if x.dtype != np.float32:
        return reference.gelu_erf(ctx, x)
    y, slope = ctx.empty(x.shape), ctx.empty(x.shape)
    _gelu_erf(x.reshape(-1), y.reshape(-1), slope.reshape(-1))
    return y, slope


def silu(ctx, x):
    """Return x · σ(x), and its derivative as the cache."""
    if x.dtype != np.float32:
        return reference.silu(ctx, x)
    y, slope = ctx.empty(x.shape), ctx.empty(x.shape)
    _silu(x.reshape(-1), y.reshape(-1), slope.reshape(-1))
    return y, slope


@compiled
def _relu_backward(dy, y, dx):
    for i in range(dy.size):
        dx[i] = dy[i] if y[i] > 0 else 0


@compiled
def _gelu(x, y, slope):
    one, two, three = np.float32(1), np.float32(2), np.float32(3)
    for i in range(x.size):
        v = x[i]
        square = v * v
        u = v * (_A + _B * square)
        # (1 + tanh u) / 2 is the logistic function of 2u.
        s = one / (one + exp32(-(u + u)))
        y[i] = v * s
        slope[i] = s + two * s * (one - s) * v * (_A + three * _B * square)


@compiled
def _gelu_erf(x, y, slope):
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
        y[i] = v * normal
        slope[i] = normal + (-z if v < 0 else z) * bell * _BELL


@compiled
def _silu(x, y, slope):
    one = np.float32(1)
    for i in range(x.size):
        v = x[i]
        s = one / (one + exp32(-v))
        y[i] = v * s
        slope[i] = s * (one + v * (one - s))
