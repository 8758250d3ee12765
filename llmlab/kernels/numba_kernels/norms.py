"""Normalisations of rows, each row read once while it is in the cache."""

import numpy as np

from llmlab.kernels import numpy_kernels as reference
from llmlab.kernels.numba_kernels.compiler import compiled


def layer_norm(ctx, x, weight, bias, eps):
    """Return weight · (x − mean) / √(variance + eps) + bias, each row of (N, C) by itself."""
    if x.dtype != np.float32:
        return reference.layer_norm(ctx, x, weight, bias, eps)
    n, c = x.shape
    normed, inverse, y = ctx.empty((n, c)), ctx.empty((n, 1)), ctx.empty((n, c))
    _layer_norm(x, weight, bias, np.float32(eps), normed, inverse[:, 0], y)
    return y, (normed, inverse)


def layer_norm_backward(ctx, dy, weight, cache, dweight, dbias):
    """Return dx = (h − mean(h) − x̂ · mean(h · x̂)) / √(variance + eps) with h = weight · dy."""
    if dy.dtype != np.float32:
        return reference.layer_norm_backward(ctx, dy, weight, cache, dweight, dbias)
    normed, inverse = cache
    dx = ctx.empty(dy.shape)
    dweight = ctx.gradient(dweight)
    if dbias is None:
        with ctx.scratch():
            unused = ctx.empty(weight.shape)
            _layer_norm_backward(dy, weight, normed, inverse[:, 0], dweight, unused, dx)
    else:
        dbias = ctx.gradient(dbias)
        _layer_norm_backward(dy, weight, normed, inverse[:, 0], dweight, dbias, dx)
    return dx


def rms_norm(ctx, x, weight, eps):
    """Return weight · x / √(mean(x²) + eps), each row of (N, C) by itself."""
    if x.dtype != np.float32:
        return reference.rms_norm(ctx, x, weight, eps)
    n, c = x.shape
    y, normed, inverse = ctx.empty((n, c)), ctx.empty((n, c)), ctx.empty((n, 1))
    _rms_norm(x, weight, np.float32(eps), normed, inverse[:, 0], y)
    return y, (normed, inverse)


def rms_norm_backward(ctx, dy, weight, cache, dweight):
    """Return dx = (h − x̂ · mean(h · x̂)) / √(mean(x²) + eps) with h = weight · dy."""
    if dy.dtype != np.float32:
        return reference.rms_norm_backward(ctx, dy, weight, cache, dweight)
    normed, inverse = cache
    dx = ctx.empty(dy.shape)
    _rms_norm_backward(dy, weight, normed, inverse[:, 0], ctx.gradient(dweight), dx)
    return dx


@compiled
def _layer_norm(x, weight, bias, eps, normed, inverse, y):
    n, c = x.shape
    for i in range(n):
        total = np.float32(0)
        for j in range(c):
            total += x[i, j]
        mean = total / np.float32(c)
        square = np.float32(0)
        for j in range(c):
            d = x[i, j] - mean
            normed[i, j] = d
            square += d * d
        scale = np.float32(1) / np.sqrt(square / np.float32(c) + eps)
        inverse[i] = scale
        for j in range(c):
            d = normed[i, j] * scale
            normed[i, j] = d
            if bias is None:  # known when this is compiled
                y[i, j] = d * weight[j]
            else:
                y[i, j] = d * weight[j] + bias[j]


@compiled
def _layer_norm_backward(dy, weight, normed, inverse, dweight, dbias, dx):
    n, c = dy.shape
    for i in range(n):
        first = np.float32(0)
        second = np.float32(0)
        for j in range(c):
            g = dy[i, j]
            h = g * weight[j]
            first += h
            second += h * normed[i, j]
            dweight[j] += g * normed[i, j]
            dbias[j] += g
        first /= np.float32(c)
        second /= np.float32(c)
        scale = inverse[i]
        for j in range(c):
            dx[i, j] = (dy[i, j] * weight[j] - first - normed[i, j] * second) * scale


@compiled
def _rms_norm(x, weight, eps, normed, inverse, y):
    n, c = x.shape
    for i in range(n):
        square = np.float32(0)
        for j in range(c):
            square += x[i, j] * x[i, j]
        scale = np.float32(1) / np.sqrt(square / np.float32(c) + eps)
        inverse[i] = scale
        for j in range(c):
            d = x[i, j] * scale
            normed[i, j] = d
            y[i, j] = d * weight[j]


@compiled
def _rms_norm_backward(dy, weight, normed, inverse, dweight, dx):
    n, c = dy.shape
    for i in range(n):
        dot = np.float32(0)
        for j in range(c):
            g = dy[i, j] * normed[i, j]
            dot += g * weight[j]
            dweight[j] += g
        dot /= np.float32(c)
        scale = inverse[i]
        for j in range(c):
            dx[i, j] = (dy[i, j] * weight[j] - normed[i, j] * dot) * scale
