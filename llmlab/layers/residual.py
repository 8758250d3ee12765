"""Residual connections with a norm before or after the layer that they go round."""

from typing import Any

import numpy as np

from llmlab.errors import ConfigError
from llmlab.layers.base import LAYERS, Layer


class _Residual(Layer):
    """A layer and a norm with a way round them; names of the inner layer stay as they are."""

    def __init__(self, embedding_dim: int, layer: Layer, norm: Layer, dropout: float = 0.0):
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout}: must be in [0, 1)")
        self.embedding_dim, self.layer, self.norm, self.rate = embedding_dim, layer, norm, dropout

    def children(self):
        """Return the inner layer, nameless, and the norm."""
        return {"": self.layer, "norm": self.norm}

    def elements(self, batch, time):
        """Add the sum, and what dropout keeps, to what the two layers need."""
        copies = 1 if self.rate == 0 else 4
        return super().elements(batch, time) + copies * batch * time * self.embedding_dim

    def _drop(self, x: np.ndarray, ctx: Any) -> tuple[np.ndarray, Any]:
        if self.rate == 0 or ctx.rng is None:
            return x, None
        return ctx.kernels.dropout(ctx, x, self.rate)

    def _drop_backward(self, dy: np.ndarray, mask: Any, ctx: Any) -> np.ndarray:
        return dy if mask is None else ctx.kernels.dropout_backward(ctx, dy, mask)


@LAYERS.register("post_norm")
class PostNorm(_Residual):
    """y = norm(x + dropout(layer(x))) (Vaswani et al. 2017, arXiv:1706.03762)."""

    def forward(self, p, x, ctx):
        """Return the normalised sum."""
        h, layer_cache = self.layer.forward(p[""], x, ctx)
        h, mask = self._drop(h, ctx)
        total = ctx.empty(x.shape)
        np.add(x, h, out=total)
        y, norm_cache = self.norm.forward(p["norm"], total, ctx)
        return y, (layer_cache, mask, norm_cache)

    def backward(self, p, g, dy, cache, ctx):
        """Return the gradients of both ways, added."""
        layer_cache, mask, norm_cache = cache
        dtotal = self.norm.backward(p["norm"], g["norm"], dy, norm_cache, ctx)
        dh = self._drop_backward(dtotal, mask, ctx)
        dx = self.layer.backward(p[""], g[""], dh, layer_cache, ctx)
        dx += dtotal
        return dx


@LAYERS.register("pre_norm")
class PreNorm(_Residual):
    """y = x + dropout(layer(norm(x))) (Xiong et al. 2020, arXiv:2002.04745)."""

    def forward(self, p, x, ctx):
        """Return the sum."""
        normed, norm_cache = self.norm.forward(p["norm"], x, ctx)
        h, layer_cache = self.layer.forward(p[""], normed, ctx)
        h, mask = self._drop(h, ctx)
        y = ctx.empty(x.shape)
        np.add(x, h, out=y)
        return y, (layer_cache, mask, norm_cache)

    def backward(self, p, g, dy, cache, ctx):
        """Return the gradients of both ways, added."""
        layer_cache, mask, norm_cache = cache
        dh = self._drop_backward(dy, mask, ctx)
        dnormed = self.layer.backward(p[""], g[""], dh, layer_cache, ctx)
        dx = self.norm.backward(p["norm"], g["norm"], dnormed, norm_cache, ctx)
        dx += dy
        return dx
