"""Cases of the contract that several tests take."""

import pytest

from llmlab.contract import Case
from llmlab.layers import ACTIVATIONS
from llmlab.layers import attention_core as attention_module

NORM = {"type": "layer_norm"}


ATTENTION = {"type": "attention", "num_heads": 2}


FEED_FORWARD = {"type": "feed_forward", "hidden_dim": 5}


LINEAR = {"layer": "linear", "norm": "layer_norm"}


NARROW = {"embedding_dim": 1}


ROPE = {"type": "rope"}


EXPERTS = {"hidden_dim": 3, "num_experts": 4, "top_k": 2}


PAIR = {"attention": ATTENTION, "feed_forward": FEED_FORWARD}


def case(type_, /, *, batch=2, time=4, ids=False, random=False, **rest):
    flags = ("segments", "positions", "weights")
    packed = {key: rest.pop(key) for key in flags if rest.get(key) is True}
    if "positions_" in rest:
        rest["positions"] = rest.pop("positions_")
    context = rest.pop("context", {})
    specs = {"layer": {"type": type_, **rest}}
    return Case(specs, batch, time, ids, random, context=context, **packed)


def residual(type_):
    return {
        "attention": case(type_, layer=ATTENTION, norm=NORM),
        "feed_forward": case(type_, layer=FEED_FORWARD, norm=NORM),
        "dropout": case(type_, layer=FEED_FORWARD, norm=NORM, dropout=0.4, random=True),
        # An inner layer that returns its own cache, or dy through a mask of its own.
        "around dropout": case(type_, layer={"type": "dropout"}, norm=NORM, random=True),
        "around a copy": case(type_, layer={"type": "dropout"}, norm=NORM),
        "nested": case(
            type_,
            layer={"type": "block", "layers": {"pre_norm": {"type": "pre_norm", **LINEAR}}},
            norm=NORM,
        ),
        "one token": case(type_, layer=ATTENTION, norm=NORM, time=1),
    }


TIED = {"tokens": {"type": "token_embedding"}}


TABLE = {
    "attention": {
        "one head": case("attention", output_projection=False, bias=False),
        "heads": case("attention", num_heads=3),
        "no bias": case("attention", num_heads=2, bias=False),
        "no projection": case("attention", num_heads=2, output_projection=False),
        "grouped": case("attention", num_heads=6, num_kv_heads=2),
        "one key head": case("attention", num_heads=3, num_kv_heads=1),
        "dropout": case("attention", num_heads=2, dropout=0.4, random=True),
        "dropout off": case("attention", num_heads=2, dropout=0.4),
        "segments": case("attention", num_heads=2, segments=True, time=5),
        "grouped segments": case("attention", num_heads=6, num_kv_heads=3, segments=True),
        "blocks": case("attention", num_heads=2, time=7),
        "grouped blocks": case("attention", num_heads=6, num_kv_heads=2, time=8),
        "dropout blocks": case("attention", num_heads=2, dropout=0.4, random=True, time=7),
        "segment blocks": case("attention", num_heads=2, segments=True, time=8),
        "one token": case("attention", num_heads=2, time=1),
        "narrow": case("attention", context=NARROW),
        "rope": case("attention", num_heads=3, positions="rope"),
        "rope interleaved": case("attention", positions={"type": "rope", "interleaved": True}),
        "rope grouped": case("attention", num_heads=3, num_kv_heads=1, positions="rope", time=7),
        "rope linear": case("attention", positions={**ROPE, "scaling": "linear", "factor": 2}),
        "rope ntk": case("attention", positions={**ROPE, "scaling": "ntk", "factor": 4}),
        "rope packed": case(
            "attention", positions_="rope", segments=True, positions=True, time=7, num_heads=3
        ),
        "alibi": case("attention", num_heads=3, positions="alibi", time=7),
        "alibi grouped": case("attention", num_heads=6, num_kv_heads=2, positions="alibi"),
        "window": case("attention", num_heads=2, window=3, time=9),
        "window of a block": case("attention", num_heads=2, window=4, time=9),
        "wide window": case("attention", num_heads=2, window=7, time=9),
        "window of one": case("attention", num_heads=2, window=1, time=5),
        "window grouped": case("attention", num_heads=6, num_kv_heads=3, window=2, time=7),
        "window segments": case("attention", num_heads=2, window=3, segments=True, time=9),
        "window dropout": case("attention", window=3, dropout=0.4, random=True, time=9),
        "window alibi": case("attention", num_heads=2, window=5, positions="alibi", time=9),
        "qk norm": case("attention", num_heads=2, qk_norm=True),
        "qk norm grouped": case("attention", num_heads=6, num_kv_heads=2, qk_norm=True, bias=False),
        "softcap": case("attention", num_heads=2, logit_softcap=0.7),
        "all": case(
            "attention",
            **{"num_heads": 3, "num_kv_heads": 1, "positions": "rope", "window": 3},
            **{"qk_norm": True, "logit_softcap": 2.0, "dropout": 0.3, "random": True, "time": 9},
        ),
    },
    "block": {
        "two": case("block", layers={"a": {"type": "linear"}, "b": NORM}),
        "transformer": case(
            "block",
            layers={
                "a": {"type": "pre_norm", "layer": ATTENTION, "norm": NORM},
                "b": {"type": "post_norm", "layer": FEED_FORWARD, "norm": NORM},
            },
        ),
    },
    "dropout": {
        "on": case("dropout", rate=0.4, random=True),
        "off": case("dropout", rate=0.4),
        "rate 0": case("dropout", rate=0.0, random=True),
        "one token": case("dropout", rate=0.4, random=True, time=1),
        "narrow": case("dropout", rate=0.4, random=True, context=NARROW),
    },
    "feed_forward": {
        **{
            name: case("feed_forward", hidden_dim=5, activation=name)
            for name in ACTIVATIONS.names()
        },
        "no bias": case("feed_forward", hidden_dim=5, bias=False),
        "one token": case("feed_forward", hidden_dim=5, time=1),
        "narrow": case("feed_forward", hidden_dim=1, context=NARROW),
    },
    "gated_feed_forward": {
        **{
            name: case("gated_feed_forward", hidden_dim=5, activation=name)
            for name in ACTIVATIONS.names()
        },
        "bias": case("gated_feed_forward", hidden_dim=5, bias=True),
        "one token": case("gated_feed_forward", hidden_dim=5, time=1),
        "narrow": case("gated_feed_forward", hidden_dim=1, context=NARROW),
    },
    "layer_norm": {
        "plain": case("layer_norm"),
        "no bias": case("layer_norm", bias=False),
        "large eps": case("layer_norm", eps=0.5),
        "one token": case("layer_norm", time=1),
        "narrow": case("layer_norm", context=NARROW),
    },
    "learned_positions": {
        "plain": case("learned_positions"),
        "packed": case("learned_positions", positions=True, time=5),
        "whole context": case("learned_positions", time=9),
        "one token": case("learned_positions", time=1),
        "narrow": case("learned_positions", context=NARROW),
    },
    "linear": {
        "square": case("linear"),
        "wide": case("linear", output_dim=9),
        "no bias": case("linear", output_dim=3, bias=False),
        "one token": case("linear", time=1),
        "narrow": case("linear", output_dim=1, context=NARROW),
    },
    "mixture_of_experts": {
        "two of four": case("mixture_of_experts", **EXPERTS),
        "balanced": case("mixture_of_experts", **EXPERTS, weights=True, balance=0.5),
        "dense": case("mixture_of_experts", hidden_dim=3, num_experts=2, weights=True),
        "one": case("mixture_of_experts", hidden_dim=3, num_experts=1, top_k=1),
        "switch": case(
            "mixture_of_experts",
            **{**EXPERTS, "top_k": 1, "normalize": False, "gated": False, "bias": True},
            **{"weights": True, "balance": 0.3, "activation": "gelu"},
        ),
        "not normalized": case("mixture_of_experts", **EXPERTS, normalize=False),
        "one token": case("mixture_of_experts", **EXPERTS, time=1, weights=True),
        "narrow": case("mixture_of_experts", **EXPERTS, context=NARROW),
    },
    "output_projection": {
        "plain": case("output_projection"),
        "no bias": case("output_projection", bias=False),
        "one token": case("output_projection", time=1),
        "narrow": case("output_projection", context=NARROW),
    },
    "parallel": {
        "two": case("parallel", layers=PAIR, norm=NORM),
        "one": case("parallel", layers={"attention": ATTENTION}, norm=NORM),
        "dropout": case("parallel", layers=PAIR, norm=NORM, dropout=0.4, random=True),
        "one token": case("parallel", layers=PAIR, norm=NORM, time=1),
    },
    "post_norm": residual("post_norm"),
    "pre_norm": residual("pre_norm"),
    "rms_norm": {
        "plain": case("rms_norm"),
        "large eps": case("rms_norm", eps=0.5),
        "one token": case("rms_norm", time=1),
        "narrow": case("rms_norm", context=NARROW),
    },
    "sandwich_norm": {
        **residual("sandwich_norm"),
        "other norm": case(
            "sandwich_norm", layer=FEED_FORWARD, norm=NORM, output_norm={"type": "rms_norm"}
        ),
    },
    "sinusoidal_positions": {
        "plain": case("sinusoidal_positions"),
        "packed": case("sinusoidal_positions", positions=True, time=5),
        "one token": case("sinusoidal_positions", time=1),
        "narrow": case("sinusoidal_positions", theta=3.0, context={"embedding_dim": 2}),
    },
    "tied_output_projection": {
        "tied": Case(TIED, ids=True),
        "one token": Case(TIED, time=1, ids=True),
        "narrow": Case(TIED, ids=True, context=NARROW),
    },
    "token_embedding": {
        "plain": case("token_embedding", ids=True),
        "one token": case("token_embedding", ids=True, batch=1, time=1),
        "narrow": case("token_embedding", ids=True, context=NARROW),
    },
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Attention in blocks of 4 queries, so that small inputs have several."""
    monkeypatch.setattr(attention_module, "BLOCK", 4)
