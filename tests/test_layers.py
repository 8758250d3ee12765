"""Every registered layer, held to the contract; a layer without a row here fails."""

import numpy as np
import pytest
from contract import CHECKS, Case, check_gradients

from llmlab import kernels
from llmlab.errors import ConfigError
from llmlab.layers import ACTIVATIONS, INITIALISATIONS, LAYERS, build_stack
from llmlab.layers import attention_core as attention_module
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.workspace import Context

NORM = {"type": "layer_norm"}
ATTENTION = {"type": "attention", "num_heads": 2}
FEED_FORWARD = {"type": "feed_forward", "hidden_dim": 5}
LINEAR = {"layer": "linear", "norm": "layer_norm"}
NARROW = {"embedding_dim": 1}
ROPE = {"type": "rope"}
EXPERTS = {"hidden_dim": 3, "num_experts": 4, "top_k": 2}
PAIR = [{"name": "attention", **ATTENTION}, {"name": "feed_forward", **FEED_FORWARD}]


def case(type_, /, *, batch=2, time=4, ids=False, random=False, **rest):
    flags = ("segments", "positions", "weights")
    packed = {key: rest.pop(key) for key in flags if rest.get(key) is True}
    if "positions_" in rest:
        rest["positions"] = rest.pop("positions_")
    context = rest.pop("context", {})
    specs = [{"name": "layer", "type": type_, **rest}]
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
            layer={"type": "block", "layers": [{"type": "pre_norm", **LINEAR}]},
            norm=NORM,
        ),
        "one token": case(type_, layer=ATTENTION, norm=NORM, time=1),
    }


TIED = [{"name": "tokens", "type": "token_embedding"}]
TIED += [{"name": "output", "type": "tied_output_projection"}]

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
        "two": case("block", layers=[{"name": "a", "type": "linear"}, {"name": "b", **NORM}]),
        "transformer": case(
            "block",
            layers=[
                {"name": "a", "type": "pre_norm", "layer": ATTENTION, "norm": NORM},
                {"name": "b", "type": "post_norm", "layer": FEED_FORWARD, "norm": NORM},
            ],
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
        "one": case("parallel", layers=PAIR[:1], norm=NORM),
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

ROWS = [
    pytest.param(variant, id=f"{name}-{title}".replace(" ", "_"))
    for name, variants in TABLE.items()
    for title, variant in variants.items()
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Attention in blocks of 4 queries, so that small inputs have several."""
    monkeypatch.setattr(attention_module, "BLOCK", 4)


def registered(registry):
    """Return the names that llmlab itself registered (other tests may add plug-ins)."""
    factories = registry._factories.items()
    return {name for name, made in factories if made.__module__.startswith("llmlab.")}


def test_every_registered_layer_has_a_row():
    assert registered(LAYERS) == set(TABLE)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("variant", ROWS)
def test_layer_keeps_the_contract(variant, check):
    check(variant)


@pytest.mark.parametrize("name", INITIALISATIONS.names())
def test_initialisation(name):
    draw = INITIALISATIONS.build(name, "init")
    for shape in ((7,), (3, 5), (1, 1)):
        values = draw(stream(0, "a"), shape)
        assert values.shape == shape and np.isfinite(values).all()
        assert np.array_equal(values, draw(stream(0, "a"), shape))


@pytest.mark.parametrize(
    ("spec", "std"),
    [
        ("he", np.sqrt(2 / 300)),
        ("xavier", np.sqrt(2 / 500)),
        ({"type": "normal", "std": 0.02}, 0.02),
        ("normal", 0.02),
        ("zeros", 0.0),
    ],
)
def test_scale_of_initialisations(spec, std):
    values = INITIALISATIONS.build(spec, "init")(stream(1, "scale"), (300, 200))
    assert abs(values.mean()) <= 0.02 * std
    assert values.std() == pytest.approx(std, rel=0.01)


def test_ones_and_layer_norm_start_as_the_identity():
    stack = build_stack([{"name": "norm", **NORM}], embedding_dim=4)
    params = Layout(stack).init(0)
    assert (params["norm.weight"] == 1).all() and (params["norm.bias"] == 0).all()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "attention", "num_heads": 4}, "num_heads=4: must divide embedding_dim=6"),
        ({"type": "attention", "num_heads": 0}, "num_heads=0"),
        ({"type": "attention", "num_heads": 6, "num_kv_heads": 4}, "num_kv_heads=4: must divide"),
        ({"type": "attention", "dropout": 1.0}, "dropout=1.0"),
        ({"type": "dropout", "rate": -0.1}, "rate=-0.1"),
        ({"type": "feed_forward", "hidden_dim": 0}, "hidden_dim=0"),
        ({"type": "layer_norm", "eps": 0}, "eps=0"),
        ({"type": "linear", "output_dim": 0}, "6 to 0"),
        ({"type": "linear", "init": "hee"}, "did you mean 'he'"),
        ({"type": "linear", "init": {"type": "normal", "std": -1}}, "std=-1"),
        ({"type": "feed_forward", "hidden_dim": 2, "activation": "rely"}, "did you mean 'relu'"),
        ({"type": "post_norm", "layer": "linear", "norm": NORM, "dropout": 2}, "dropout=2"),
        ({"type": "pre_norm", "layer": "lin", "norm": NORM}, "model.stack[0].layer: unknown layer"),
        ({"type": "pre_norm", "layer": "linear"}, "model.stack[0].norm: missing"),
        ({"type": "linear", "widht": 3}, "model.stack[0].widht: unknown argument"),
        ({"type": "pre_norm", "layer": 5, "norm": NORM}, "model.stack[0].layer=5: expected"),
        ({"type": "pre_norm", "layer": "linear", "norm": None}, "model.stack[0].norm=null"),
        ({"type": "block", "layers": {"type": "linear"}}, "expected a list of layers"),
        ({"type": "block", "layers": "linear"}, "model.stack[0].layers='linear'"),
        ({"type": "learned_positions", "max_seq_len": 8}, "max_seq_len=8: less than the model's"),
        ({"type": "linear", "repeat": True}, "repeat=True"),
        ({"type": "linear", "repeat": 0}, "repeat=0"),
        ({"type": "linear", "name": "a.b"}, "name='a.b'"),
        ({}, "model.stack[0]"),
        ("linear", "expected a mapping"),
    ],
)
def test_wrong_layers_are_refused(spec, said):
    with pytest.raises(ConfigError) as error:
        build_stack([spec], embedding_dim=6, max_seq_len=9)
    assert any(said in problem for problem in error.value.problems), error.value.problems


def test_all_problems_of_a_stack_are_reported_at_once():
    specs = [
        {"type": "linaer"},
        {"type": "linear"},
        {"type": "linear"},
        {"type": "dropout", "x": 1},
    ]
    with pytest.raises(ConfigError) as error:
        build_stack(specs, embedding_dim=6)
    text = "\n".join(error.value.problems)
    assert all(f"model.stack[{index}]" in text for index in (0, 2, 3))
    with pytest.raises(ConfigError, match="empty"):
        build_stack([], embedding_dim=6)


def test_layers_that_are_built_already_and_norms_that_may_be_missing():
    spec = {"type": "sandwich_norm", "layer": LAYERS.build("linear", "x", embedding_dim=6)}
    stack = build_stack([spec | {"norm": NORM, "output_norm": None}], embedding_dim=6)
    assert Layout(stack).shapes["sandwich_norm.weight"] == (6, 6)


@pytest.mark.parametrize("ids", [[0, 5], [-1, 0]])
def test_ids_outside_the_table_are_refused(ids):
    layer = LAYERS.build("token_embedding", "x", vocab_size=5, embedding_dim=2)
    assert_refused(layer, np.array(ids), f"id {max(ids, key=abs)}: must be 0 to 4")


@pytest.mark.parametrize("positions", [None, [[0, 1, 5]]])
def test_positions_outside_the_table_are_refused(positions):
    size = 2 if positions is None else 5
    layer = LAYERS.build("learned_positions", "x", max_seq_len=size, embedding_dim=2)
    where = None if positions is None else np.array(positions)
    told = f"position {2 if positions is None else 5}: must be 0 to {size - 1}"
    assert_refused(layer, np.zeros((3, 2)), told, where)


def assert_refused(layer, x, told, positions=None):
    params = Layout(layer).init(0, np.float64)
    ctx = Context(kernels.load("numpy"), np.float64)
    ctx.begin(1, len(x), positions=positions)
    with pytest.raises(ValueError, match=told):
        layer.forward(params.tree, x, ctx)


def test_repeat_and_nesting_make_the_names():
    specs = [
        {"name": "b", "type": "block", "repeat": 2, "layers": [{"name": "x", "type": "linear"}]},
        {"name": "r", "type": "pre_norm", "layer": "linear", "norm": "layer_norm"},
    ]
    names = set(Layout(build_stack(specs, embedding_dim=3)).shapes)
    assert names == {
        *("b.0.x.weight", "b.0.x.bias", "b.1.x.weight", "b.1.x.bias"),
        *("r.weight", "r.bias", "r.norm.weight", "r.norm.bias"),
    }


def test_the_future_and_other_segments_are_not_seen():
    stack = build_stack([{"type": "attention", "num_heads": 2}], embedding_dim=4)
    params = Layout(stack).init(0, np.float64)
    from llmlab import kernels

    ctx = Context(kernels.load("numpy"), np.float64)
    x = stream(0, "x").standard_normal((9, 4))
    segments = np.array([[0, 0, 0, 1, 1, 1, 1, 2, 2]])

    def run(x, segments=None):
        ctx.begin(1, 9, segments=segments)
        return stack.forward(params.tree, x, ctx)[0].copy()

    changed = x.copy()
    changed[5] += 1
    moved = (run(x) != run(changed)).any(axis=1)
    assert moved.tolist() == [False] * 5 + [True] * 4
    moved = (run(x, segments) != run(changed, segments)).any(axis=1)
    assert moved.tolist() == [False] * 5 + [True] * 2 + [False] * 2


def test_the_contract_sees_a_layer_that_breaks_it():
    """One deliberate breach each; the checks themselves are under test here."""
    from contract import check_adds, check_dtype, check_repeats, check_untouched

    from llmlab.layers.linear import Linear

    class Overwrites(Linear):
        def backward(self, p, g, dy, cache, ctx):
            g["weight"].fill(0)
            return super().backward(p, g, dy, cache, ctx)

    class Scribbles(Linear):
        def backward(self, p, g, dy, cache, ctx):
            dx = super().backward(p, g, dy, cache, ctx)
            cache *= 2
            return dx

    class Returns(Linear):
        def backward(self, p, g, dy, cache, ctx):
            super().backward(p, g, dy, cache, ctx)
            return dy

    class Doubles(Linear):
        def forward(self, p, x, ctx):
            y, cache = super().forward(p, x, ctx)
            return y.astype(np.float64), cache

    class Remembers(Linear):
        count = 0

        def forward(self, p, x, ctx):
            self.count += 1
            y, cache = super().forward(p, x, ctx)
            y += self.count
            return y, cache

    from llmlab.layers import Stack

    breaches = {
        Overwrites: check_adds,
        Scribbles: check_untouched,
        Returns: check_untouched,
        Doubles: check_dtype,
        Remembers: check_repeats,
    }
    for broken, check in breaches.items():
        with pytest.raises((AssertionError, ValueError)):
            check(Case([], stack=Stack({"layer": broken(6)})))
    check_gradients(Case([], stack=Stack({"layer": Linear(6)})))
