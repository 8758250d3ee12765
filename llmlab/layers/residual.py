"""Residual connections with a norm before or after the layer that they go round."""

from collections.abc import Mapping
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


@LAYERS.register("sandwich_norm")
class SandwichNorm(_Residual):
    """y = x + dropout(output_norm(layer(norm(x)))) (Ding et al. 2021, arXiv:2105.13290).

    `output_norm` is another norm like `norm` if it isn't given.
    """

    def __init__(
        self,
        embedding_dim: int,
        layer: Layer,
        norm: Layer,
        output_norm: Layer | None = None,
        dropout: float = 0.0,
    ):
        super().__init__(embedding_dim, layer, norm, dropout)
        self.output_norm = norm if output_norm is None else output_norm

    def children(self):
        """Return the inner layer, nameless, and the norms."""
        return super().children() | {"output_norm": self.output_norm}

    def forward(self, p, x, ctx):
        """Return the sum."""
        normed, norm_cache = self.norm.forward(p["norm"], x, ctx)
        h, layer_cache = self.layer.forward(p[""], normed, ctx)
        h, output_cache = self.output_norm.forward(p["output_norm"], h, ctx)
        h, mask = self._drop(h, ctx)
        y = ctx.empty(x.shape)
        np.add(x, h, out=y)
        return y, (norm_cache, layer_cache, output_cache, mask)

    def backward(self, p, g, dy, cache, ctx):
        """Return the gradients of both ways, added."""
        norm_cache, layer_cache, output_cache, mask = cache
        dh = self._drop_backward(dy, mask, ctx)
        dh = self.output_norm.backward(p["output_norm"], g["output_norm"], dh, output_cache, ctx)
        dnormed = self.layer.backward(p[""], g[""], dh, layer_cache, ctx)
        dx = self.norm.backward(p["norm"], g["norm"], dnormed, norm_cache, ctx)
        dx += dy
        return dx


@LAYERS.register("parallel")
class Parallel(_Residual):
    """y = x + dropout(Σ layer(norm(x))), the layers side by side.

    Attention and feed-forward share one norm and one sum (GPT-J, Wang and Komatsuzaki 2021;
    PaLM, Chowdhery et al. 2022, arXiv:2204.02311, §2).
    """

    def __init__(
        self, embedding_dim: int, layers: Mapping[str, Layer], norm: Layer, dropout: float = 0.0
    ):
        super().__init__(embedding_dim, next(iter(layers.values())), norm, dropout)
        self.layers = dict(layers)
        self._order = list(self.layers.items())
        if "norm" in self.layers:
            raise ConfigError("layers: 'norm' is the name of the shared norm; choose another")

    def children(self):
        """Return the layers and the norm."""
        return self.layers | {"norm": self.norm}

    def forward(self, p, x, ctx):
        """Return the sum."""
        normed, norm_cache = self.norm.forward(p["norm"], x, ctx)
        outputs, caches = [], []
        for name, layer in self._order:
            h, cache = layer.forward(p[name], normed, ctx)
            outputs.append(h)
            caches.append(cache)
        total = ctx.empty(x.shape)
        np.copyto(total, outputs[0])
        for h in outputs[1:]:
            total += h
        h, mask = self._drop(total, ctx)
        y = ctx.empty(x.shape)
        np.add(x, h, out=y)
        return y, (norm_cache, caches, mask)

    def backward(self, p, g, dy, cache, ctx):
        """Return the gradients of all ways, added."""
        norm_cache, caches, mask = cache
        dh = self._drop_backward(dy, mask, ctx)
        parts = [
            layer.backward(p[name], g[name], dh, kept, ctx)
            for (name, layer), kept in zip(self._order, caches, strict=True)
        ]
        dnormed = parts[0]
        for part in parts[1:]:
            dnormed += part
        dx = self.norm.backward(p["norm"], g["norm"], dnormed, norm_cache, ctx)
        dx += dy
        return dx
