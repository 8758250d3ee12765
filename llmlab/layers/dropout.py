"""Zeroing at random while training."""

from llmlab.errors import ConfigError
from llmlab.layers.base import LAYERS, Layer


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

    def elements(self, batch, time):
        """Output, mask, input gradient."""
        return 3 * batch * time * self.embedding_dim
