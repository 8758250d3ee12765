"""Element-wise functions between two products."""

from math import pi, sqrt

import numpy as np

from llmlab.kernels import numpy_kernels as reference
from llmlab.kernels.numba_kernels.compiler import compiled, exp32

_A = np.float32(sqrt(2 / pi))
_B = np.float32(sqrt(2 / pi) * 0.044715)

relu = reference.relu
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
