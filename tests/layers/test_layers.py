"""Every registered layer, held to the contract; a layer without a row here fails."""

import numpy as np
import pytest
from layer_cases import (
    NORM,
    TABLE,
    TIED,
)

from llmlab import kernels
from llmlab.contract import CHECKS, Case
from llmlab.contract.layers import check_gradients
from llmlab.errors import ConfigError
from llmlab.layers import INITIALISATIONS, LAYERS, build_stack
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.workspace import Context

TIED["output"] = {"type": "tied_output_projection"}


ROWS = [
    pytest.param(variant, id=f"{name}-{title}".replace(" ", "_"))
    for name, variants in TABLE.items()
    for title, variant in variants.items()
]


def registered(registry):
    """Return the names that llmlab itself registered (other tests may add plug-ins)."""
    factories = registry._factories.items()
    return {name for name, made in factories if made.__module__.startswith("llmlab.")}


def test_every_registered_layer_has_a_row():
    assert registered(LAYERS) == set(TABLE)


@pytest.mark.parametrize("variant", ROWS)
def test_layer_keeps_the_contract(variant):
    breaches = []
    for check in CHECKS:
        try:
            check(variant)
        except Exception as error:
            error.add_note(check.__name__)
            breaches.append(error)
    if breaches:
        raise ExceptionGroup("the contract isn't kept", breaches)


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
    stack = build_stack({"norm": NORM}, embedding_dim=4)
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
        (
            {"type": "pre_norm", "layer": "lin", "norm": NORM},
            "model.stack.layer.layer: unknown layer",
        ),
        ({"type": "pre_norm", "layer": "linear"}, "model.stack.layer.norm: missing"),
        ({"type": "linear", "widht": 3}, "model.stack.layer.widht: unknown argument"),
        ({"type": "pre_norm", "layer": 5, "norm": NORM}, "model.stack.layer.layer=5: expected"),
        ({"type": "pre_norm", "layer": "linear", "norm": None}, "model.stack.layer.norm=null"),
        ({"type": "block", "layers": ["linear"]}, "expected layers by name"),
        ({"type": "block", "layers": "linear"}, "model.stack.layer.layers='linear'"),
        ({"type": "learned_positions", "max_seq_len": 8}, "max_seq_len=8: less than the model's"),
        ({"type": "linear", "repeat": True}, "repeat=True"),
        ({"type": "linear", "repeat": 0}, "repeat=0"),
        ({"type": "linear", "repeat": 2, "each": {2: {"bias": False}}}, "0 to 1, to what differs"),
        ({"type": "linear", "repeat": 2, "each": {0: "linear"}}, "model.stack.layer.each="),
        ({"type": "linear", "each": {0: {"bias": False}}}, "model.stack.layer.each="),
        ({}, "model.stack.layer: unknown layer 'layer'"),
        ({"type": None}, "model.stack.layer.type=null: to leave the layer out"),
        (3, "model.stack.layer=3: expected a mapping"),
    ],
)
def test_wrong_layers_are_refused(spec, said):
    with pytest.raises(ConfigError) as error:
        build_stack({"layer": spec}, embedding_dim=6, max_seq_len=9)
    assert any(said in problem for problem in error.value.problems), error.value.problems


def test_all_problems_of_a_stack_are_reported_at_once():
    specs = {
        "a": {"type": "linaer"},
        "b": {"type": "linear"},
        "c": {"type": "linear", "init": "hee"},
        "d": {"type": "dropout", "x": 1},
    }
    with pytest.raises(ConfigError) as error:
        build_stack(specs, embedding_dim=6)
    text = "\n".join(error.value.problems)
    assert all(f"model.stack.{name}" in text for name in "acd") and "stack.b" not in text
    with pytest.raises(ConfigError, match="empty"):
        build_stack({"gone": None}, embedding_dim=6)


def test_layers_that_are_built_already_and_norms_that_may_be_missing():
    spec = {"type": "sandwich_norm", "layer": LAYERS.build("linear", "x", embedding_dim=6)}
    spec |= {"norm": NORM, "output_norm": None}
    stack = build_stack({"sandwich_norm": spec}, embedding_dim=6)
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
    specs = {
        "b": {"type": "block", "repeat": 2, "layers": {"x": {"type": "linear"}}},
        "r": {"type": "pre_norm", "layer": "linear", "norm": "layer_norm"},
    }
    names = set(Layout(build_stack(specs, embedding_dim=3)).shapes)
    assert names == {
        *("b.0.x.weight", "b.0.x.bias", "b.1.x.weight", "b.1.x.bias"),
        *("r.weight", "r.bias", "r.norm.weight", "r.norm.bias"),
    }


def test_the_future_and_other_segments_are_not_seen():
    stack = build_stack({"attention": {"type": "attention", "num_heads": 2}}, embedding_dim=4)
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
    from llmlab.contract.layers import check_adds, check_dtype, check_repeats, check_untouched
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
