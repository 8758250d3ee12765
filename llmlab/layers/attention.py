"""Causal self-attention by blocks of queries."""

from math import sqrt
from typing import Any

import numpy as np

from llmlab.errors import ConfigError
from llmlab.layers.base import LAYERS, Layer
from llmlab.layers.dropout import attention_masks
from llmlab.layers.initialisations import InitSpec
from llmlab.layers.linear import Linear

BLOCK = 64  # queries at a time; keys after a block's last query are never looked at


@LAYERS.register("attention")
class Attention(Layer):
    """softmax(q kᵀ / √D + mask) v for each head (Vaswani et al. 2017, arXiv:1706.03762).

    q, k and v come from one product with `qkv` (C, (H + 2 · K) · D): K is `num_kv_heads`, each
    of which serves H / K query heads in a row (Ainslie et al. 2023, arXiv:2305.13245). A
    token attends to itself and to what came before it, within its own segment.

    Parameters
    ----------
    num_heads
        H, must divide embedding_dim.
    num_kv_heads
        K, must divide num_heads; None means H.
    bias, output_projection
        Whether the maps have biases, and whether the heads' outputs go through another
        map (C, C).
    dropout
        Share of the attention probabilities to drop while training.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int = 1,
        num_kv_heads: int | None = None,
        bias: bool = True,
        output_projection: bool = True,
        dropout: float = 0.0,
        init: InitSpec = "he",
        output_init: InitSpec | None = None,
    ):
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or embedding_dim % num_heads:
            raise ConfigError(f"num_heads={num_heads}: must divide embedding_dim={embedding_dim}")
        if kv_heads < 1 or num_heads % kv_heads:
            raise ConfigError(f"num_kv_heads={kv_heads}: must divide num_heads={num_heads}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout}: must be in [0, 1)")
        self.embedding_dim, self.num_heads, self.num_kv_heads = embedding_dim, num_heads, kv_heads
        self.head_dim = embedding_dim // num_heads
        self.scale = 1 / sqrt(self.head_dim)
        self.dropout = dropout
        self.qkv = Linear(
            embedding_dim, (num_heads + 2 * kv_heads) * self.head_dim, bias=bias, init=init
        )
        self.out = (
            Linear(embedding_dim, embedding_dim, bias=bias, init=output_init or init)
            if output_projection
            else None
        )

    def children(self):
        """Return the maps."""
        return {"qkv": self.qkv} | ({} if self.out is None else {"out": self.out})

    def kv_shape(self) -> tuple[int, int]:
        """Return (K, D): what a cache stores of each token, once as key and once as value."""
        return self.num_kv_heads, self.head_dim

    def forward(self, p, x, ctx):
        """Return the heads' outputs (B·T, C), projected if the layer has that map."""
        qkv, qkv_cache = self.qkv.forward(p["qkv"], x, ctx)
        queries = qkv[:, : self.embedding_dim]
        np.multiply(queries, self.scale, out=queries)
        heads = ctx.empty((len(x), self.embedding_dim))
        if ctx.kv_cache is not None:
            self._attend_cached(qkv, heads, ctx)
            kept: Any = None
        else:
            kept = self._attend(qkv, heads, ctx)
        if self.out is None:
            return heads, (qkv_cache, qkv, heads, kept, None)
        y, out_cache = self.out.forward(p["out"], heads, ctx)
        return y, (qkv_cache, qkv, heads, kept, out_cache)

    def backward(self, p, g, dy, cache, ctx):
        """Return dx."""
        qkv_cache, qkv, heads, kept, out_cache = cache
        if self.out is not None:
            dy = self.out.backward(p["out"], g["out"], dy, out_cache, ctx)
        dqkv = ctx.empty(qkv.shape)
        self._attend_backward(dy, qkv, heads, kept, dqkv, ctx)
        dqueries = dqkv[:, : self.embedding_dim]
        np.multiply(dqueries, self.scale, out=dqueries)
        return self.qkv.backward(p["qkv"], g["qkv"], dqkv, qkv_cache, ctx)

    def _split(self, qkv: np.ndarray, ctx: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return views q (B, K, G, T, D), k and v (B, K, 1, T, D) of the rows."""
        k, d = self.num_kv_heads, self.head_dim
        per_head = qkv.reshape(ctx.batch, ctx.time, -1, d).transpose(0, 2, 1, 3)
        q = per_head[:, : self.num_heads]
        q = q.reshape(ctx.batch, k, -1, ctx.time, d) if k != 1 else q[:, None]
        rest = per_head[:, self.num_heads :, None]
        return q, rest[:, :k], rest[:, k:]

    def _heads(self, rows: np.ndarray, ctx: Any) -> np.ndarray:
        """Return rows (B·T, C) viewed as (B, K, G, T, D)."""
        shape = (ctx.batch, ctx.time, self.num_kv_heads, -1, self.head_dim)
        return rows.reshape(shape).transpose(0, 2, 3, 1, 4)

    def _attend(self, qkv: np.ndarray, heads: np.ndarray, ctx: Any) -> list[Any]:
        """Write the heads' outputs; return what backward needs of each block."""
        q, k, v = self._split(qkv, ctx)
        o = self._heads(heads, ctx)
        batch, kv_heads, groups, time, d = q.shape
        kept, drops = [], []
        if self.dropout and ctx.rng is not None:
            drops = attention_masks(ctx, self.dropout, self.num_heads, BLOCK)
        kt = ctx.empty((batch, kv_heads, 1, d, time))
        np.copyto(kt, k.swapaxes(-1, -2))
        for start in range(0, time, BLOCK):
            stop = min(start + BLOCK, time)
            scores = ctx.empty((batch, kv_heads, groups, stop - start, stop))
            ctx.kernels.product(q[..., start:stop, :], kt[..., :stop], scores)
            probabilities = ctx.kernels.softmax(ctx, scores, _mask(start, stop, ctx))
            used, drop = probabilities, None
            if drops:
                drop = drops[start // BLOCK].reshape(probabilities.shape)
                used = np.multiply(probabilities, drop, out=ctx.empty(scores.shape))
            ctx.kernels.product(used, v[..., :stop, :], o[..., start:stop, :])
            kept.append((start, stop, probabilities, used, drop))
        return kept

    def _attend_backward(
        self, dy: np.ndarray, qkv: np.ndarray, heads: np.ndarray, kept: Any, dqkv: Any, ctx: Any
    ) -> None:
        """Write the gradient of the scaled queries, the keys and the values to `dqkv`."""
        q, k, v = self._split(qkv, ctx)
        dq, dk, dv = self._split(dqkv, ctx)
        do, time = self._heads(dy, ctx), ctx.time
        with ctx.scratch():
            vt = ctx.empty((*v.shape[:-2], self.head_dim, time))
            np.copyto(vt, v.swapaxes(-1, -2))
            # The row sums of dp · p are those of do · o: no pass over the probabilities.
            dots = ctx.empty((len(dy), self.num_heads))
            per_head = (len(dy), self.num_heads, self.head_dim)
            np.einsum("nhd,nhd->nh", dy.reshape(per_head), heads.reshape(per_head), out=dots)
            rows = self._dots(dots, ctx)
            for start, stop, probabilities, used, drop in reversed(kept):
                with ctx.scratch():
                    part = slice(start, stop)
                    dp = ctx.empty(probabilities.shape)
                    ctx.kernels.product(do[..., part, :], vt[..., :stop], dp)
                    if drop is not None:
                        dp *= drop
                    ds = ctx.kernels.softmax_backward(ctx, dp, probabilities, rows[..., part, :])
                    ctx.kernels.product(ds, k[..., :stop, :], dq[..., part, :])
                    last = stop == time
                    self._over_keys(ds, q[..., part, :], dk[..., :stop, :], last, ctx)
                    self._over_keys(used, do[..., part, :], dv[..., :stop, :], last, ctx)

    def _dots(self, dots: np.ndarray, ctx: Any) -> np.ndarray:
        """Return (B·T, H) as (B, K, G, T, 1)."""
        shape = (ctx.batch, ctx.time, self.num_kv_heads, -1)
        return dots.reshape(shape).transpose(0, 2, 3, 1)[..., None]

    def _over_keys(self, a: np.ndarray, b: np.ndarray, out: Any, first: bool, ctx: Any) -> None:
        """Write (the first block) or add aᵀ @ b, summed over the heads that share a key."""
        at = a.swapaxes(-1, -2)
        if first and a.shape[2] == 1:
            ctx.kernels.product(at, b, out)
            return
        with ctx.scratch():
            part = ctx.empty((*a.shape[:3], *out.shape[-2:]))
            ctx.kernels.product(at, b, part)
            total = part
            if a.shape[2] > 1:
                total = ctx.empty((*a.shape[:2], 1, *out.shape[-2:]))
                np.add.reduce(part, axis=2, keepdims=True, out=total)
            if first:
                np.copyto(out, total)
            else:
                np.add(out, total, out=out)

    def _attend_cached(self, qkv: np.ndarray, heads: np.ndarray, ctx: Any) -> None:
        """Write the heads' outputs, attending to the cache and to the new tokens."""
        q, k, v = self._split(qkv, ctx)
        o = self._heads(heads, ctx)
        kt, values, mask = ctx.kv_cache.extend(self, k[:, :, 0], v[:, :, 0])
        scores = ctx.empty((*q.shape[:-1], kt.shape[-1]))
        ctx.kernels.product(q, kt[:, :, None], scores)
        ctx.kernels.softmax(ctx, scores, mask)
        ctx.kernels.product(scores, values[:, :, None], o)

    def flops(self, batch, time):
        """Add the lower triangles of q kᵀ and of the product with v to the maps."""
        pairs = batch * time * (time + 1) // 2
        return super().flops(batch, time) + 4 * pairs * self.embedding_dim

    def elements(self, batch, time):
        """Add outputs, transposed keys, probabilities and dqkv to what the maps keep."""
        area = mask = 0
        for start in range(0, time, BLOCK):
            stop = min(start + BLOCK, time)
            area += stop * (stop - start)
            mask += (start + BLOCK) * (stop - start)
        kept = batch * self.num_heads * (2 * area + mask if self.dropout else area)
        rows = batch * time * (self.embedding_dim + self.num_kv_heads * self.head_dim)
        rows += batch * time * self.qkv.d_out
        return super().elements(batch, time) + rows + kept


def _mask(start: int, stop: int, ctx: Any) -> np.ndarray | None:
    """Return 0 where a query of [start, stop) may look, −inf elsewhere.

    Without segments only the last stop − start keys need it: (Q, Q).
    """
    if ctx.segments is None:
        size = stop - start
        key = ("causal", size)
        known = ctx.memo.get(key)
        if known is None:
            known = ctx.memo[key] = np.triu(np.full((size, size), -np.inf, ctx.dtype), 1)
        return known
    segments = ctx.segments
    same = segments[:, start:stop, None] == segments[:, None, :stop]
    same &= np.arange(stop) <= np.arange(start, stop)[:, None]
    return np.where(same, ctx.dtype.type(0), ctx.dtype.type(-np.inf))[:, None, None]
