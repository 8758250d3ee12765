"""Zeroing at random while training."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from llmlab.errors import ConfigError
from llmlab.layers.base import LAYERS, Layer


def attention_masks(
    ctx: Any, rate: float, heads: int, block: int, widths: Sequence[int]
) -> list[np.ndarray]:
    """Return a mask (B, H, Q, L) for each block of queries.

    A query draws for as many keys as a full block looks at, `widths` of each block, so that
    what it gets doesn't depend on T.
    """
    starts = range(0, ctx.time, block)
    sizes = [min(block, ctx.time - start) for start in starts]
    shapes = [(size, heads, width) for size, width in zip(sizes, widths, strict=True)]
    drawn = ctx.kernels.dropout_mask(ctx, sum(prod(shape) for shape in shapes), rate)
    masks, at = [], 0
    for size, _, width in shapes:
        shape = (size, heads, width)
        part = drawn[:, at : at + prod(shape)].reshape(ctx.batch, *shape)
        masks.append(part.transpose(0, 2, 1, 3)[..., : width - block + size])
        at += prod(shape)
    return masks


@LAYERS.register("dropout")
class Dropout(Layer):
    """Zero a share `rate` of the values, scale the rest by 1 / (1 − rate).

    Only when `ctx.rng` is given (Srivastava et al. 2014; there is no train / eval flag).
    """

    def __init__(self, embedding_dim: int, rate: float = 0.1):
        if not 0 <= rate < 1:
            raise ConfigError(f"rate={rate}: must be in [0, 1)")
        self.embedding_dim, self.rate = embedding_dim, rate

    def forward(self, p, x, ctx):
        """Return the masked rows; the cache is the mask."""
        return ctx.kernels.dropout(ctx, x, self.rate)

    def backward(self, p, g, dy, cache, ctx):
        """Return dy through the same mask."""
        return ctx.kernels.dropout_backward(ctx, dy, cache)
