"""Causal self-attention: its maps, and what happens to queries and keys between them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from llmlab.errors import ConfigError
from llmlab.layers.attention_core import AttentionCore, Block
from llmlab.layers.base import LAYERS, Layer, Tree
from llmlab.layers.initialisations import InitSpec
from llmlab.layers.linear import Linear
from llmlab.layers.positions import Bias, Position, Rotation, build_positions
from llmlab.layers.qk_norm import QKNorm
from llmlab.registry import Spec
from llmlab.workspace import Context


class AttentionCache(NamedTuple):
    """What `Attention.forward` keeps."""

    # Queries, keys and values (B·T, (H + 2 · K) · D), and the heads' outputs (B·T, C)
    qkv: np.ndarray
    heads: np.ndarray
    blocks: list[Block] | None  # of each block of queries its probabilities; None while decoding
    # Those of the maps and of the norm
    qkv_cache: Any
    norm_cache: Any
    out_cache: Any


@LAYERS.register("attention")
class Attention(Layer):
    """softmax(q kᵀ / √D + mask) v for each head (Vaswani et al. 2017, arXiv:1706.03762).

    q, k and v come from one product with `qkv` (C, (H + 2 · K) · D), whose columns are the H
    heads of queries, then K heads of keys, then K heads of values, D columns each. Each key
    head serves H / K query heads in a row (Ainslie et al. 2023, arXiv:2305.13245). A token
    attends to itself and to what came before it, within its own segment.

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
    positions
        `{type: rope, …}`, `{type: alibi}`, or None.
    window
        How many tokens a token sees, itself included; None for all before it (Beltagy et al.
        2020, arXiv:2004.05150).
    qk_norm, qk_norm_eps
        Whether queries and keys pass an RMS norm, one weight (D,) for all heads of each, before
        they are turned (Henry et al. 2020, arXiv:2010.04245).
    logit_softcap
        c of c · tanh(scores / c), which keeps scores within ± c (Gemma 2, arXiv:2408.00118).
    linear
        Which layer the maps are. It is built with embedding_dim, output_dim, bias and init.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int = 1,
        num_kv_heads: int | None = None,
        bias: bool = True,
        output_projection: bool = True,
        dropout: float = 0.0,
        positions: Position | Spec | None = None,
        window: int | None = None,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        logit_softcap: float | None = None,
        init: InitSpec = "he",
        output_init: InitSpec | None = None,
        linear: Callable[..., Layer] = Linear,
    ):
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or embedding_dim % num_heads:
            raise ConfigError(
                f"num_heads={num_heads}: must divide embedding_dim={embedding_dim}, into heads of "
                f"one width; nearest: {_nearest(num_heads, embedding_dim)}"
            )
        if kv_heads < 1 or num_heads % kv_heads:
            raise ConfigError(
                f"num_kv_heads={kv_heads}: must divide num_heads={num_heads}, so that each serves "
                f"as many; nearest: {_nearest(kv_heads, num_heads)}"
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout}: must be in [0, 1)")
        if window is not None and window < 1:
            raise ConfigError(f"window={window}: must be at least 1 token, or null for all")
        if logit_softcap is not None and not logit_softcap > 0:
            raise ConfigError(f"logit_softcap={logit_softcap}: must be positive, or null")
        self.embedding_dim, self.num_heads, self.num_kv_heads = embedding_dim, num_heads, kv_heads
        self.head_dim = d = embedding_dim // num_heads
        self.dropout, self.window = dropout, window
        where = build_positions(positions, d, num_heads, kv_heads)
        self.rotation = where if isinstance(where, Rotation) else None
        self.rotated_heads = num_heads + kv_heads  # those of queries and keys
        self.qk_norm = QKNorm(num_heads, kv_heads, d, qk_norm_eps) if qk_norm else None
        self.core = AttentionCore(
            num_heads,
            kv_heads,
            d,
            dropout=dropout,
            window=window,
            softcap=logit_softcap,
            bias=where if isinstance(where, Bias) else None,
        )
        c, width = embedding_dim, (num_heads + 2 * kv_heads) * d
        self.qkv = linear(embedding_dim=c, output_dim=width, bias=bias, init=init)
        self.out = (
            linear(embedding_dim=c, output_dim=c, bias=bias, init=output_init or init)
            if output_projection
            else None
        )

    def children(self):
        """Return the maps, and the norm of queries and keys."""
        found: dict[str, Layer] = {"qkv": self.qkv}
        if self.qk_norm is not None:
            found["qk_norm"] = self.qk_norm
        if self.out is not None:
            found["out"] = self.out
        return found

    def kv_shape(self) -> tuple[int, int]:
        """Return (K, D): what a cache stores of each token, once as key and once as value."""
        return self.num_kv_heads, self.head_dim

    def forward(self, p, x, ctx):
        """Return the heads' outputs (B·T, C), projected if the layer has that map."""
        qkv, qkv_cache = self.qkv.forward(p["qkv"], x, ctx)
        norm_cache = blocks = out_cache = None
        if self.qk_norm is not None:
            qkv, norm_cache = self.qk_norm.forward(p["qk_norm"], qkv, ctx)
        if self.rotation is not None:
            self.rotation.rotate(qkv, self.rotated_heads, ctx)
        heads = y = ctx.empty((len(x), self.embedding_dim))
        if ctx.kv_cache is not None:
            self.core.decode(self, qkv, heads, ctx)
        else:
            blocks = self.core.forward(qkv, heads, ctx)
        if self.out is not None:
            y, out_cache = self.out.forward(p["out"], heads, ctx)
        return y, AttentionCache(qkv, heads, blocks, qkv_cache, norm_cache, out_cache)

    def backward(self, p, g, dy, cache, ctx):
        """Return dx."""
        qkv, heads, blocks, qkv_cache, norm_cache, out_cache = cache
        if self.out is not None:
            dy = self.out.backward(p["out"], g["out"], dy, out_cache, ctx)
        dqkv = ctx.empty(qkv.shape)
        self.core.backward(dy, qkv, heads, blocks, dqkv, ctx)
        if self.rotation is not None:
            self.rotation.rotate(dqkv, self.rotated_heads, ctx, back=True)
        if self.qk_norm is not None:
            dqkv = self.qk_norm.backward(p["qk_norm"], g["qk_norm"], dqkv, norm_cache, ctx)
        return self.qkv.backward(p["qkv"], g["qkv"], dqkv, qkv_cache, ctx)

    def maps(self, cache: AttentionCache, ctx: Context) -> np.ndarray:
        """Return how much each token looks at each: probabilities (B, H, T, T), before dropout."""
        if cache.blocks is None:
            raise ValueError("attention keeps no probabilities while decoding")
        maps = np.zeros((ctx.batch, self.num_heads, ctx.time, ctx.time), ctx.dtype)
        for block in cache.blocks:
            part = maps[:, :, block.start : block.stop, block.low : block.stop]
            part[...] = block.probabilities.reshape(part.shape)
        return maps

    def heads(self, cache: AttentionCache, p: Tree, ctx: Context) -> np.ndarray:
        """Return each head's share of the output, (B, T, H, C); their sum lacks only the bias."""
        n, c, d = len(cache.heads), self.embedding_dim, self.head_dim
        shares = np.zeros((n, self.num_heads, c), ctx.dtype)
        alone = np.zeros((n, c), ctx.dtype)
        for head in range(self.num_heads):
            own = slice(head * d, (head + 1) * d)
            if self.out is None:
                shares[:, head, own] = cache.heads[:, own]
                continue
            with ctx.scratch():
                nothing, _ = self.out.forward(p["out"], np.zeros_like(alone[:1]), ctx)
                alone[:, own] = cache.heads[:, own]
                np.subtract(self.out.forward(p["out"], alone, ctx)[0], nothing, out=shares[:, head])
                alone[:, own] = 0
        return shares.reshape(ctx.batch, ctx.time, self.num_heads, c)

    def flops(self, batch, time):
        """Add the pairs that see each other in q kᵀ and in the product with v to the maps."""
        seen = time if self.window is None else min(self.window, time)
        pairs = batch * (seen * (seen + 1) // 2 + (time - seen) * seen)
        return super().flops(batch, time) + 4 * pairs * self.embedding_dim


def _nearest(value: int, whole: int) -> str:
    """Return the divisors of `whole` on both sides of `value`."""
    fitting = [n for n in range(1, whole + 1) if whole % n == 0]
    below = [n for n in fitting if n < value][-1:]
    return " or ".join(map(str, below + [n for n in fitting if n > value][:1]))
