"""Softmax over keys, and the loss, a softmax over the vocabulary."""

import numpy as np

from llmlab.kernels import numpy_kernels as reference
from llmlab.kernels.numba_kernels.compiler import compiled, exp32
from llmlab.kernels.numpy_kernels.softmax import MODERATE, row_maxima

_MODERATE = np.float32(MODERATE)
_NO_MASK = np.zeros((1, 0), np.float32)


def softmax(ctx, scores, mask):
    """Turn scores (…, Q, L) into probabilities, in place; see the reference."""
    plain = mask is None or mask.ndim == 2
    if scores.dtype != np.float32 or not plain or not scores.flags.c_contiguous:
        return reference.softmax(ctx, scores, mask)
    queries, keys = scores.shape[-2:]
    blocks, rows = scores.reshape(-1, queries, keys), scores.reshape(-1, keys)
    mask = _NO_MASK if mask is None else mask
    with ctx.scratch():
        maxima = ctx.empty((len(rows),))
        if _moderate(scores.reshape(-1)):
            maxima.fill(0)
        else:
            _add_mask(blocks, mask)
            row_maxima(ctx, rows, maxima)
        _softmax(blocks, mask, maxima)
    return scores


def softmax_backward(ctx, dprobabilities, probabilities, dots):
    """Turn dprobabilities (…, Q, L) into dscores, in place; see the reference."""
    if dprobabilities.dtype != np.float32:
        return reference.softmax_backward(ctx, dprobabilities, probabilities, dots)
    keys = dprobabilities.shape[-1]
    with ctx.scratch():
        row = ctx.empty((dprobabilities.size // keys,))
        np.copyto(row.reshape(dots.shape), dots)
        _softmax_backward(dprobabilities.reshape(-1, keys), probabilities.reshape(-1, keys), row)
    return dprobabilities


def cross_entropy(ctx, logits, targets, weights, scale):
    """Return the sum of weighted losses and `scale` times its gradient; see the reference."""
    if logits.dtype != np.float32:
        return reference.cross_entropy(ctx, logits, targets, weights, scale)
    dlogits = ctx.empty(logits.shape)
    with ctx.scratch():
        maxima = ctx.empty((len(logits),))
        if _moderate(logits.reshape(-1)):
            maxima.fill(0)
        else:
            row_maxima(ctx, logits, maxima)
        loss = _cross_entropy(logits, maxima, targets, weights, np.float32(scale), dlogits)
    return loss, dlogits


@compiled
def _add_mask(scores, mask):
    blocks, queries, keys = scores.shape
    masked = mask.shape[1]
    free = keys - masked
    for b in range(blocks):
        for q in range(queries):
            for j in range(masked):
                scores[b, q, free + j] += mask[q, j]


@compiled
def _moderate(x):
    """Tell whether exp of every number is safe to sum; counting is what vectorises."""
    count = np.float32(0)
    for i in range(x.size):
        count += np.float32(0) if abs(x[i]) < _MODERATE else np.float32(1)
    return count == 0


@compiled
def _softmax(scores, mask, maxima):
    blocks, queries, keys = scores.shape
    masked = mask.shape[1]
    free = keys - masked
    for b in range(blocks):
        for q in range(queries):
            for j in range(masked):
                scores[b, q, free + j] += mask[q, j]
            high = maxima[b * queries + q]
            total = np.float32(0)
            for j in range(keys):
                s = scores[b, q, j]
                e = exp32(s - high)
                # The clipped exponential of -inf is small, but a masked key's share is 0.
                e = np.float32(0) if s == np.float32(-np.inf) else e
                scores[b, q, j] = e
                total += e
            total = np.float32(1) / total
            for j in range(keys):
                scores[b, q, j] *= total


@compiled
def _softmax_backward(dp, p, dots):
    rows, keys = dp.shape
    for i in range(rows):
        dot = dots[i]
        for j in range(keys):
            dp[i, j] = (dp[i, j] - dot) * p[i, j]


@compiled
def _cross_entropy(logits, maxima, targets, weights, scale, dlogits):
    n, v = logits.shape
    loss = 0.0
    for i in range(n):
        high = maxima[i]
        total = np.float32(0)
        for j in range(v):
            e = exp32(logits[i, j] - high)
            dlogits[i, j] = e
            total += e
        target = targets[i]
        loss += (np.log(np.float64(total)) - (logits[i, target] - high)) * weights[i]
        dlogits[i, target] -= total
        factor = weights[i] * scale / total
        for j in range(v):
            dlogits[i, j] *= factor
    return loss
