"""Softmax over keys, and the loss, a softmax over the vocabulary."""

import numpy as np

from llmlab.kernels import numpy_kernels as reference
from llmlab.kernels.numba_kernels.compiler import compiled, exp32
from llmlab.kernels.numpy_kernels.softmax import row_maxima


def softmax(ctx, scores, mask):
    """Turn scores (…, Q, L) into probabilities, in place; see the reference."""
    plain = mask is None or mask.ndim == 2
    if scores.dtype != np.float32 or not plain or not scores.flags.c_contiguous:
        return reference.softmax(ctx, scores, mask)
    queries, keys = scores.shape[-2:]
    blocks = scores.reshape(-1, queries, keys)
    if mask is not None:
        _add_mask(blocks, mask)
    with ctx.scratch():
        maxima = ctx.empty((blocks.shape[0] * queries,))
        row_maxima(ctx, blocks.reshape(-1, keys), maxima)
        _softmax(blocks.reshape(-1, keys), maxima)
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
def _softmax(scores, maxima):
    rows, keys = scores.shape
    for i in range(rows):
        high = maxima[i]
        total = np.float32(0)
        for j in range(keys):
            s = scores[i, j]
            e = exp32(s - high)
            # The clipped exponential of -inf is small, but a masked key's share is 0.
            e = np.float32(0) if s == np.float32(-np.inf) else e
            scores[i, j] = e
            total += e
        total = np.float32(1) / total
        for j in range(keys):
            scores[i, j] *= total


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
        loss += (np.log(total) - (logits[i, target] - high)) * weights[i]
        dlogits[i, target] -= total
        factor = weights[i] * scale / total
        for j in range(v):
            dlogits[i, j] *= factor
    return loss
