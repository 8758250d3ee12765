"""Causal attention by blocks of queries: what happens between the maps of the layer."""

from collections.abc import Iterator
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from llmlab.layers.dropout import attention_masks
from llmlab.layers.positions import Bias, once_a_pass

BLOCK = 64  # queries at a time; keys that a whole block can't see are never looked at


class Block(NamedTuple):
    """What is kept of queries [start, stop), which look at keys [low, stop)."""

    start: int
    stop: int
    low: int
    # (B, K, G, Q, L), without and with dropout
    probabilities: np.ndarray
    used: np.ndarray
    # Dropout's mask, and tanh of the scores, where there is such a thing
    drop: np.ndarray | None
    capped: np.ndarray | None


class AttentionCore:
    """softmax(cap(q kᵀ / √D) + bias + mask) v for each head.

    The factor 1 / √D goes into the transposed copies that the products need anyway: of k in
    forward, of v in backward, where it scales the scores' gradients for both q and k.

    Shapes: q (B, K, G, T, D), k and v (B, K, 1, T, D) are views of the rows (B·T, …) that the
    maps take and give, in which the heads lie in the order queries, keys, values.
    """

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        dropout: float,
        window: int | None,
        softcap: float | None,
        bias: Bias | None,
    ):
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.dropout, self.window, self.softcap, self.bias = dropout, window, softcap, bias
        self.scale = 1 / sqrt(head_dim)

    def split(self, qkv: np.ndarray, ctx: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return views q (B, K, G, T, D), k and v (B, K, 1, T, D) of the rows."""
        k, d = self.num_kv_heads, self.head_dim
        per_head = qkv.reshape(ctx.batch, ctx.time, -1, d).transpose(0, 2, 1, 3)
        q = per_head[:, : self.num_heads]
        q = q.reshape(ctx.batch, k, -1, ctx.time, d) if k != 1 else q[:, None]
        rest = per_head[:, self.num_heads :, None]
        return q, rest[:, :k], rest[:, k:]

    def heads(self, rows: np.ndarray, ctx: Any) -> np.ndarray:
        """Return rows (B·T, C) viewed as (B, K, G, T, D)."""
        shape = (ctx.batch, ctx.time, self.num_kv_heads, -1, self.head_dim)
        return rows.reshape(shape).transpose(0, 2, 3, 1, 4)

    def blocks(self, time: int) -> Iterator[tuple[int, int, int]]:
        """Yield (start, stop, low): queries [start, stop) look at keys [low, stop)."""
        for start in range(0, time, BLOCK):
            low = 0 if self.window is None else max(0, start - self.window + 1)
            yield start, min(start + BLOCK, time), low

    def forward(self, qkv: np.ndarray, heads: np.ndarray, ctx: Any) -> list[Block]:
        """Write the heads' outputs; return what backward needs of each block."""
        q, k, v = self.split(qkv, ctx)
        o = self.heads(heads, ctx)
        batch, kv_heads, groups, time, d = q.shape
        kept, drops = [], []
        if self.dropout and ctx.rng is not None:
            widths = [start + BLOCK - low for start, _, low in self.blocks(time)]
            drops = attention_masks(ctx, self.dropout, self.num_heads, BLOCK, widths)
        kt = ctx.empty((batch, kv_heads, 1, d, time))
        np.copyto(kt, k.swapaxes(-1, -2))
        kt *= self.scale
        for start, stop, low in self.blocks(time):
            scores = ctx.empty((batch, kv_heads, groups, stop - start, stop - low))
            ctx.kernels.product(q[..., start:stop, :], kt[..., low:stop], scores)
            capped = None if self.softcap is None else _cap(scores, self.softcap, ctx)
            if self.bias is not None:
                np.add(scores, self.bias.block(start, low, stop, ctx), out=scores)
            mask = block_mask(start, stop, low, self.window, ctx)
            probabilities = ctx.kernels.softmax(ctx, scores, mask)
            used, drop = probabilities, None
            if drops:
                drop = drops[start // BLOCK].reshape(probabilities.shape)
                used = np.multiply(probabilities, drop, out=ctx.empty(scores.shape))
            ctx.kernels.product(used, v[..., low:stop, :], o[..., start:stop, :])
            kept.append(Block(start, stop, low, probabilities, used, drop, capped))
        return kept

    def backward(
        self, dy: np.ndarray, qkv: np.ndarray, heads: np.ndarray, kept: Any, dqkv: Any, ctx: Any
    ) -> None:
        """Write the gradients of queries, keys and values to `dqkv`."""
        q, k, v = self.split(qkv, ctx)
        dq, dk, dv = self.split(dqkv, ctx)
        do, time = self.heads(dy, ctx), ctx.time
        whole = kept[-1].low == 0  # the last block sees all keys, and writes their gradients
        if not whole:
            dqkv[:, self.num_heads * self.head_dim :].fill(0)
        with ctx.scratch():
            vt = ctx.empty((*v.shape[:-2], self.head_dim, time))
            np.copyto(vt, v.swapaxes(-1, -2))
            vt *= self.scale
            # The row sums of dp · p are those of do · o: no pass over the probabilities.
            dots = ctx.empty((len(dy), self.num_heads))
            per_head = (len(dy), self.num_heads, self.head_dim)
            np.einsum("nhd,nhd->nh", dy.reshape(per_head), heads.reshape(per_head), out=dots)
            dots *= self.scale
            rows = self._dots(dots, ctx)
            for start, stop, low, probabilities, used, drop, capped in reversed(kept):
                with ctx.scratch():
                    part, keys = slice(start, stop), slice(low, stop)
                    dp = ctx.empty(probabilities.shape)
                    ctx.kernels.product(do[..., part, :], vt[..., keys], dp)
                    if drop is not None:
                        dp *= drop
                    ds = ctx.kernels.softmax_backward(ctx, dp, probabilities, rows[..., part, :])
                    if capped is not None:
                        _uncap(ds, capped, ctx)
                    ctx.kernels.product(ds, k[..., keys, :], dq[..., part, :])
                    first = whole and stop == time
                    self._over_keys(ds, q[..., part, :], dk[..., keys, :], first, ctx)
                    self._over_keys(used, do[..., part, :], dv[..., keys, :], first, ctx)

    def decode(self, layer: Any, qkv: np.ndarray, heads: np.ndarray, ctx: Any) -> None:
        """Write the heads' outputs, attending to the cache of `layer` and to the new tokens."""
        q, k, v = self.split(qkv, ctx)
        if ctx.kv_cache.is_empty:  # a prompt: nothing lies before it
            ctx.kv_cache.store(layer, k[:, :, 0], v[:, :, 0])
            with ctx.scratch():
                self.forward(qkv, heads, ctx)
            return
        o = self.heads(heads, ctx)
        kt, values, mask = ctx.kv_cache.extend(layer, k[:, :, 0], v[:, :, 0])
        with ctx.scratch():
            scores = ctx.empty((*q.shape[:-1], kt.shape[-1]))
            ctx.kernels.product(q, kt[:, :, None], scores)
            scores *= self.scale
            if self.softcap is not None:
                _cap(scores, self.softcap, ctx)
            if self.bias is not None:
                offsets = ctx.kv_cache.offsets(layer)
                np.add(scores, self.bias.cached(offsets, ctx), out=scores)
            ctx.kernels.softmax(ctx, scores, mask)
            ctx.kernels.product(scores, values[:, :, None], o)

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


def _cap(scores: np.ndarray, cap: float, ctx: Any) -> np.ndarray:
    """Turn scores into cap · tanh(scores / cap), in place; return the tanh."""
    capped = ctx.empty(scores.shape)
    np.multiply(scores, 1 / cap, out=capped)
    np.tanh(capped, out=capped)
    np.multiply(capped, cap, out=scores)
    return capped


def _uncap(ds: np.ndarray, capped: np.ndarray, ctx: Any) -> None:
    """Multiply by the derivative of cap · tanh(s / cap), 1 − tanh², in place."""
    with ctx.scratch():
        slope = ctx.empty(ds.shape)
        np.multiply(capped, capped, out=slope)
        np.subtract(1, slope, out=slope)
        np.multiply(ds, slope, out=ds)


def block_mask(start: int, stop: int, low: int, window: int | None, ctx: Any) -> Any:
    """Return 0 where a query of [start, stop) may look, −inf elsewhere; keys are [low, stop).

    Where neither segments nor the window hide anything before the block, only its own keys,
    the last, need it: (Q, Q).
    """
    size = stop - start
    reach = stop if window is None else window
    if ctx.segments is None:
        before = start - low if stop > reach else 0
        key = ("mask", size, before, reach) if stop > reach else ("mask", size)
        known = ctx.memo.get(key)
        if known is None:
            distance = np.arange(size)[:, None] - np.arange(-before, size)
            hidden = (distance < 0) | (distance >= reach)
            known = ctx.memo[key] = np.where(hidden, -np.inf, 0).astype(ctx.dtype)
        return known
    key = ("mask", start, stop, low, reach)
    return once_a_pass(ctx, key, lambda: _segment_mask(start, stop, low, reach, ctx))


def _segment_mask(start: int, stop: int, low: int, reach: int, ctx: Any) -> np.ndarray:
    """Return the mask of packed rows, (B, 1, 1, Q, L)."""
    segments, at = ctx.segments, ctx.counting(stop)
    shape = (len(segments), stop - start, stop - low)
    mask = ctx.empty((shape[0], 1, 1, *shape[1:]))
    mask.fill(0)
    with ctx.scratch():
        hidden, far = ctx.empty(shape, bool), ctx.empty(shape[1:], bool)
        distance = ctx.empty(shape[1:], np.intp)
        np.not_equal(segments[:, start:stop, None], segments[:, None, low:stop], out=hidden)
        np.subtract(at[start:stop, None], at[low:stop], out=distance)
        for compare, bound in ((np.less, 0), (np.greater_equal, reach)):
            compare(distance, bound, out=far)
            np.logical_or(hidden, far, out=hidden)
        np.copyto(mask[:, 0, 0], -np.inf, where=hidden)
    return mask
