"""RMS norms of queries and keys, head by head."""

from typing import Any

import numpy as np

from llmlab.layers.base import Layer
from llmlab.layers.norms import RMSNorm


class QKNorm(Layer):
    """q = weight · q / √(mean(q²) + eps) for each head, and the same for k with its own weight.

    Takes and gives rows (B·T, (H + 2 · K) · D); the values in them stay as they are. `query` and
    `key` each have one weight (D,) for all their heads, as in Qwen 3 (arXiv:2505.09388).
    """

    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int, eps: float):
        self.head_dim = head_dim
        self.norm = RMSNorm(head_dim, eps)
        width = num_heads * head_dim
        ends = width + num_kv_heads * head_dim
        self.parts = {"query": slice(0, width), "key": slice(width, ends)}
        self.normed = ends

    def children(self):
        """Return the norm, under both names: a description can serve twice."""
        return {"query": self.norm, "key": self.norm}

    def forward(self, p, x, ctx):
        """Return rows with normed queries and keys."""
        y, caches = ctx.empty(x.shape), {}
        np.copyto(y[:, self.normed :], x[:, self.normed :])
        for name, part in self.parts.items():
            normed, caches[name] = self.norm.forward(p[name], self._heads(x[:, part], ctx), ctx)
            np.copyto(y[:, part], normed.reshape(len(x), -1))
        return y, caches

    def backward(self, p, g, dy, cache, ctx):
        """Return dx."""
        dx = ctx.empty(dy.shape)
        np.copyto(dx[:, self.normed :], dy[:, self.normed :])
        for name, part in self.parts.items():
            with ctx.scratch():
                dnormed = self._heads(dy[:, part], ctx)
                dhead = self.norm.backward(p[name], g[name], dnormed, cache[name], ctx)
                np.copyto(dx[:, part], dhead.reshape(len(dy), -1))
        return dx

    def _heads(self, rows: np.ndarray, ctx: Any) -> np.ndarray:
        """Return a contiguous copy of the heads as rows, (B·T·heads, D)."""
        copied = ctx.empty((rows.size // self.head_dim, self.head_dim))
        np.copyto(copied.reshape(len(rows), -1), rows)
        return copied

    def flops(self, batch, time):
        """None that count beside the products."""
        return 0
