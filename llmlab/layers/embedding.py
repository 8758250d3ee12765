"""From token ids to vectors, and the positions that are added to them."""

import numpy as np

from llmlab.errors import ConfigError
from llmlab.layers.base import LAYERS, Layer
from llmlab.layers.initialisations import InitSpec, initialisation
from llmlab.layers.positions import token_positions
from llmlab.params import Param


@LAYERS.register("token_embedding")
class TokenEmbedding(Layer):
    """y = weight[id], with weight (V, C). Input: ids (B·T,) instead of rows."""

    def __init__(self, vocab_size: int, embedding_dim: int, init: InitSpec = "normal"):
        self.vocab_size, self.embedding_dim = vocab_size, embedding_dim
        self.init = initialisation(init)

    def params(self):
        """Return the table; weight decay may shrink it, but it isn't the matrix of a product."""
        return {"weight": Param((self.vocab_size, self.embedding_dim), self.init, "decayed")}

    def forward(self, p, x, ctx):
        """Look the rows up; the cache is the ids."""
        _check_range("id", x.min(initial=0), x.max(initial=0), self.vocab_size)
        y = ctx.empty((len(x), self.embedding_dim))
        np.take(p["weight"], x, axis=0, out=y, mode="clip")
        return y, x

    def backward(self, p, g, dy, cache, ctx):
        """Add dy's rows to the table's; ids have no gradient, so dy itself stands for it."""
        ctx.kernels.add_rows(ctx, cache, dy, g["weight"])
        return dy


@LAYERS.register("learned_positions")
class LearnedPositions(Layer):
    """y = x + weight[position], with weight (max_seq_len, C) (GPT, Radford et al. 2018)."""

    adds_positions = True

    def __init__(self, embedding_dim: int, max_seq_len: int, init: InitSpec = "normal"):
        self.embedding_dim, self.max_seq_len = embedding_dim, max_seq_len
        self.init = initialisation(init)
        if max_seq_len < 1:
            raise ConfigError(f"max_seq_len={max_seq_len}: must be at least 1")

    def params(self):
        """Return the table."""
        return {"weight": Param((self.max_seq_len, self.embedding_dim), self.init, "decayed")}

    def forward(self, p, x, ctx):
        """Add each position's row; the cache is the positions, or None for 0 … T−1."""
        y = ctx.empty(x.shape)
        index = token_positions(ctx)
        if index is None:
            _check_range("position", 0, ctx.time - 1, self.max_seq_len)
            block = (ctx.batch, ctx.time, self.embedding_dim)
            table = p["weight"][: ctx.time]
            np.add(x.reshape(block), table, out=y.reshape(block))
            return y, None
        index = index.reshape(-1)
        _check_range("position", index.min(initial=0), index.max(initial=0), self.max_seq_len)
        np.take(p["weight"], index, axis=0, out=y, mode="clip")
        y += x
        return y, index

    def backward(self, p, g, dy, cache, ctx):
        """Return dy; each position's row gets the sum over the batch."""
        dx = ctx.empty(dy.shape)
        np.copyto(dx, dy)
        if cache is not None:
            ctx.kernels.add_rows(ctx, cache, dy, g["weight"])
            return dx
        table = ctx.gradient(g["weight"])[: ctx.time]
        with ctx.scratch():
            total = ctx.empty((ctx.time * self.embedding_dim,))
            ctx.kernels.product(ctx.ones(ctx.batch), dy.reshape(ctx.batch, -1), total)
            table += total.reshape(table.shape)
        return dx


def _check_range(what: str, low: int, high: int, size: int) -> None:
    """Raise a ValueError for an index outside the table, which `take` would silently clip."""
    if low < 0 or high >= size:
        raise ValueError(f"{what} {low if low < 0 else high}: must be 0 to {size - 1}")
