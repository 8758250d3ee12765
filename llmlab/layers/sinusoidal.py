"""Positions as waves, added to the embeddings."""

import numpy as np

from llmlab.errors import ConfigError
from llmlab.layers.base import LAYERS, Layer
from llmlab.layers.positions import table_size, token_positions
from llmlab.workspace import Context


@LAYERS.register("sinusoidal_positions")
class SinusoidalPositions(Layer):
    """y = x + wave[position]; nothing is learned (Vaswani et al. 2017, §3.5).

    wave[t, 2i] = sin(t · theta^(−2i / C)), wave[t, 2i + 1] = cos(t · theta^(−2i / C)).
    """

    adds_positions = True

    def __init__(self, embedding_dim: int, theta: float = 10_000.0):
        if embedding_dim % 2:
            raise ConfigError(
                f"embedding_dim={embedding_dim}: must be even for pairs of sine and cosine; "
                f"nearest: {embedding_dim - 1 or 2} or {embedding_dim + 1}"
            )
        if not theta > 1:
            raise ConfigError(f"theta={theta}: must be more than 1; usual is 10000")
        self.embedding_dim, self.theta = embedding_dim, theta

    def forward(self, p, x, ctx):
        """Return the sum; there is nothing to keep."""
        y = ctx.empty(x.shape)
        index = token_positions(ctx)
        if index is None:
            block = (ctx.batch, ctx.time, self.embedding_dim)
            table = self._table(ctx.time, ctx)[: ctx.time]
            np.add(x.reshape(block), table, out=y.reshape(block))
        else:
            table = self._table(int(index.max(initial=0)) + 1, ctx)
            np.take(table, index.reshape(-1), axis=0, out=y, mode="clip")
            y += x
        return y, None

    def backward(self, p, g, dy, cache, ctx):
        """Return dy."""
        dx = ctx.empty(dy.shape)
        np.copyto(dx, dy)
        return dx

    def _table(self, length: int, ctx: Context) -> np.ndarray:
        """Return (at least `length`, C), kept in the context."""
        size, c = table_size(length), self.embedding_dim
        key = ("sinusoidal", c, self.theta, size)
        known = ctx.memo.get(key)
        if known is None:
            angles = np.arange(size)[:, None] * self.theta ** (-np.arange(0, c, 2) / c)
            waves = np.stack((np.sin(angles), np.cos(angles)), axis=2)
            known = ctx.memo[key] = waves.reshape(size, c).astype(ctx.dtype)
        return known
