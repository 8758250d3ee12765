"""Updates of flat vectors, in place and in one pass."""

from math import sqrt

import numpy as np

from llmlab.kernels import numpy_kernels as reference
from llmlab.kernels.numba_kernels.compiler import compiled


def adam(ctx, p, g, m, v, lr, betas, eps, t, scale):
    """Update p, m and v by Adam's rule for the gradient scale · g at step t ≥ 1."""
    if p.dtype != np.float32:
        reference.adam(ctx, p, g, m, v, lr, betas, eps, t, scale)
        return
    b1, b2 = betas
    root = sqrt((1 - b2**t) / (1 - b2))
    rate = lr * root * (1 - b1) / (1 - b1**t)
    f = np.float32
    _adam(p, g, m, v, f(rate), f(b1), f(b2), f(eps * root), f(scale))


@compiled
def _adam(p, g, m, v, rate, b1, b2, eps, scale):
    for i in range(p.size):
        d = g[i] * scale
        m[i] = b1 * m[i] + d
        v[i] = b2 * v[i] + d * d
        p[i] -= rate * m[i] / (np.sqrt(v[i]) + eps)
