"""What attention and experts tell of a pass: maps, heads' shares, routing."""

import numpy as np
import pytest

from llmlab.generate.kv_cache import KVCache
from llmlab.layers import build_stack
from llmlab.layers.attention import Attention
from llmlab.layers.experts import MixtureOfExperts
from llmlab.network import Network
from llmlab.params import Layout

B, C, V = 2, 12, 7
VARIANTS = {
    "plain": {},
    "grouped": {"num_heads": 6, "num_kv_heads": 2},
    "window": {"window": 5},
    "long-window": {"window": 70},
    "alibi": {"positions": {"type": "alibi"}},
    "rope": {"positions": {"type": "rope"}},
    "softcap": {"logit_softcap": 0.7},
    "qk-norm": {"qk_norm": True},
    "no-projection": {"output_projection": False},
    "all": {
        "num_heads": 6,
        "num_kv_heads": 3,
        "window": 9,
        "positions": {"type": "alibi"},
        "logit_softcap": 2.0,
        "bias": False,
    },
}


def asked(spec, time, packed=False):
    """Return what a listener gets of a layer: the layer, p, y, cache, ctx."""
    specs = {"tokens": "token_embedding", "layer": {"type": "attention", "num_heads": 3, **spec}}
    stack = build_stack(specs, embedding_dim=C, vocab_size=V, max_seq_len=200)
    network = Network(stack, Layout(stack).init(0, np.float64))
    rng = np.random.default_rng(1)
    for _, view in network.params.items():
        view[...] = rng.standard_normal(view.shape)
    circumstances, found = {}, []
    if packed:
        column = np.broadcast_to(np.arange(time), (B, time))
        circumstances = {"segments": column // 4, "positions": column % 4}

    def post(path, layer, y, cache):
        if path == "layer":
            found.extend((layer, network.params.tree["layer"], y, cache, network.ctx))

    with network.listening(post=post):
        network.forward(rng.integers(V, size=(B, time)), **circumstances)
    return found


def plain_maps(layer, cache, ctx):
    """Return the probabilities (B, H, T, T) by a loop over queries and keys."""
    time, d, h, k = ctx.time, layer.head_dim, layer.num_heads, layer.num_kv_heads
    qkv = cache.qkv.reshape(B, time, h + 2 * k, d)
    maps = np.zeros((B, h, time, time))
    slopes = np.zeros(h) if layer.core.bias is None else layer.core.bias.slopes
    for b in range(B):
        for head in range(h):
            for t in range(time):
                low = 0 if layer.window is None else max(0, t - layer.window + 1)
                scores = {}
                for s in range(low, t + 1):
                    if ctx.segments is not None and ctx.segments[b, s] != ctx.segments[b, t]:
                        continue
                    score = qkv[b, t, head] @ qkv[b, s, h + head // (h // k)] / np.sqrt(d)
                    cap = layer.core.softcap
                    score = score if cap is None else cap * np.tanh(score / cap)
                    scores[s] = np.exp(score - slopes[head] * (t - s))
                for s, value in scores.items():
                    maps[b, head, t, s] = value / sum(scores.values())
    return maps


@pytest.mark.every_day(10)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("time", [1, 70])  # a block of queries holds 64
@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_are_the_probabilities(variant, time, packed):
    layer, _, _, cache, ctx = asked(VARIANTS[variant], time, packed)
    assert isinstance(layer, Attention)
    maps = layer.maps(cache, ctx)
    assert maps.dtype == np.float64
    np.testing.assert_allclose(maps, plain_maps(layer, cache, ctx), atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_heads_shares_add_up_to_the_output(variant):
    layer, p, y, cache, ctx = asked(VARIANTS[variant], 70)
    shares = layer.heads(cache, p, ctx)
    assert shares.shape == (B, 70, layer.num_heads, C)
    bias = p["out"]["bias"] if "bias" in p.get("out", {}) else 0
    np.testing.assert_allclose(shares.sum(axis=2).reshape(y.shape), y - bias, atol=1e-12)
    # Of each head alone: what its probabilities pick from its values, through its rows of the map.
    maps, d = layer.maps(cache, ctx), layer.head_dim
    values = cache.qkv.reshape(B, 70, -1, d)[:, :, layer.num_heads + layer.num_kv_heads :]
    for head in range(layer.num_heads):
        v = values[:, :, head // (layer.num_heads // layer.num_kv_heads)]
        own = slice(head * d, (head + 1) * d)
        rows = p["out"]["weight"][own] if "out" in p else np.eye(C)[own]
        np.testing.assert_allclose(shares[:, :, head], maps[:, head] @ v @ rows, atol=1e-12)


def test_there_are_no_maps_while_decoding():
    layer, p, *_, ctx = asked({}, 3)
    cache = KVCache(layer, B, 3, np.float64)
    cache.prepare(3)
    ctx.begin(B, 3, kv_cache=cache)
    _, kept = layer.forward(p, np.zeros((B * 3, C)), ctx)
    with pytest.raises(ValueError, match="while decoding"):
        layer.maps(kept, ctx)


@pytest.mark.parametrize("normalize", [True, False])
def test_routing_is_who_was_chosen_and_how_much(normalize):
    spec = {"type": "mixture_of_experts", "hidden_dim": 4, "num_experts": 5, "top_k": 2}
    specs = {"tokens": "token_embedding", "layer": spec | {"normalize": normalize, "balance": 0.0}}
    stack = build_stack(specs, embedding_dim=C, vocab_size=V)
    network, found = Network(stack, Layout(stack).init(0, np.float64)), []

    def post(path, layer, y, cache):
        if isinstance(layer, MixtureOfExperts):
            found.append((layer.routing(cache, network.ctx), cache.probabilities.copy()))

    with network.listening(post=post):
        network.forward(np.arange(6).reshape(2, 3))
    ((routing, probabilities),) = found
    assert routing.shape == (2, 3, 5)
    for gates, p in zip(routing.reshape(6, 5), probabilities, strict=True):
        best = np.argsort(-p)[:2]
        wanted = np.zeros(5)
        wanted[best] = p[best] / (p[best].sum() if normalize else 1)
        np.testing.assert_allclose(gates, wanted, rtol=1e-12)
