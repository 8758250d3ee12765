"""Updates of flat vectors, in place and in one pass."""

from math import sqrt

import numpy as np

from llmlab.kernels import numpy_kernels as reference
from llmlab.kernels.numba_kernels.compiler import compiled


def adam(ctx, p, g, m, v, lr, betas, eps, t, scale, decay=0.0):
    """Update p, m and v by Adam's rule for the gradient scale · g at step t ≥ 1."""
    if p.dtype != np.float32:
        reference.adam(ctx, p, g, m, v, lr, betas, eps, t, scale, decay)
        return
    b1, b2 = betas
    root = sqrt((1 - b2**t) / (1 - b2))
    rate = lr * root * (1 - b1) / (1 - b1**t)
    f = np.float32
    _adam(p, g, m, v, f(rate), f(b1), f(b2), f(eps * root), f(scale), f(1 - decay))


def sgd(ctx, p, g, m, lr, momentum, nesterov, scale, decay):
    """Update p and m by gradient descent with momentum; see the reference."""
    if p.dtype != np.float32 or m is None:
        reference.sgd(ctx, p, g, m, lr, momentum, nesterov, scale, decay)
        return
    f = np.float32
    # The step is now · d + behind · m.
    now, behind = (f(1), f(momentum)) if nesterov else (f(0), f(1))
    _sgd(p, g, m, f(lr), f(momentum), now, behind, f(scale), f(decay))


def lion(ctx, p, g, m, lr, betas, scale, decay):
    """Update p and m by Lion's rule; see the reference."""
    if p.dtype != np.float32:
        reference.lion(ctx, p, g, m, lr, betas, scale, decay)
        return
    f = np.float32
    _lion(p, g, m, f(lr), f(betas[0]), f(betas[1]), f(scale), f(1 - decay))


def average(ctx, mean, p, decay):
    """Move `mean` towards p in place."""
    if p.dtype != np.float32:
        reference.average(ctx, mean, p, decay)
        return
    _average(mean, p, np.float32(1 - decay))


@compiled
def _adam(p, g, m, v, rate, b1, b2, eps, scale, keep):
    for i in range(p.size):
        d = g[i] * scale
        m[i] = b1 * m[i] + d
        v[i] = b2 * v[i] + d * d
        p[i] = keep * p[i] - rate * m[i] / (np.sqrt(v[i]) + eps)


@compiled
def _sgd(p, g, m, lr, momentum, now, behind, scale, decay):
    for i in range(p.size):
        d = g[i] * scale + decay * p[i]
        m[i] = momentum * m[i] + d
        p[i] -= lr * (now * d + behind * m[i])


@compiled
def _lion(p, g, m, lr, b1, b2, scale, keep):
    one = np.float32(1)
    for i in range(p.size):
        d = g[i] * scale
        step = np.sign(b1 * m[i] + (one - b1) * d)
        m[i] = b2 * m[i] + (one - b2) * d
        p[i] = keep * p[i] - lr * step


@compiled
def _average(mean, p, share):
    for i in range(p.size):
        mean[i] += share * (p[i] - mean[i])
