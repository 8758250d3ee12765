"""From vectors to logits."""

import numpy as np

from llmlab.layers.base import LAYERS, Layer
from llmlab.layers.initialisations import InitSpec, initialisation
from llmlab.layers.linear import Linear
from llmlab.params import Param


@LAYERS.register("output_projection")
class OutputProjection(Linear):
    """logits = x @ weight + bias, with weight (C, V)."""

    def __init__(
        self, embedding_dim: int, vocab_size: int, bias: bool = True, init: InitSpec = "he"
    ):
        super().__init__(embedding_dim, vocab_size, bias, init)
        self.group = "decayed"

    def forward(self, p, x, ctx):
        """Return the logits, only those of `ctx.rows` while decoding; the cache is x."""
        if ctx.rows is not None:
            x = x[ctx.rows]
        return super().forward(p, x, ctx)


@LAYERS.register("tied_output_projection")
class TiedOutputProjection(Layer):
    """logits = x @ weightᵀ, with weight (V, C) shared with the token embedding."""

    def __init__(self, embedding_dim: int, vocab_size: int, tied_to: str = "tokens.weight"):
        self.shape = (vocab_size, embedding_dim)
        self.tied_to = tied_to

    def params(self):
        """Return the shared table."""
        return {"weight": Param(self.shape, initialisation("zeros"), "decayed", self.tied_to)}

    def forward(self, p, x, ctx):
        """Return the logits, only those of `ctx.rows` while decoding; the cache is x."""
        if ctx.rows is not None:
            x = x[ctx.rows]
        y = ctx.empty((len(x), self.shape[0]))
        return ctx.kernels.product(x, p["weight"].T, y), x

    def backward(self, p, g, dy, cache, ctx):
        """Return dy @ weight; the table's gradient gets dyᵀ @ x."""
        dx = ctx.empty(cache.shape)
        ctx.kernels.product(dy, p["weight"], dx)
        ctx.add_product(dy.T, cache, g["weight"])
        return dx

    def flops(self, batch, time):
        """Two operations for each weight and row."""
        return 2 * batch * time * int(np.prod(self.shape))
