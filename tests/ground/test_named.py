"""Parts by name: order, places, repeats."""

import pytest

from llmlab.errors import ConfigError
from llmlab.layers import LAYERS, build_stack
from llmlab.named import entries, ordered, placed
from llmlab.params import Layout

L = {"type": "linear"}


def order(**parts):
    return list(placed(parts, "stack", "layer"))


def after(name):
    return {**L, "after": name}


def before(name):
    return {**L, "before": name}


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ({"b": L, "a": L}, "b a"),
        ({"a": L, "b": L, "x": after("a")}, "a x b"),
        ({"a": L, "b": L, "x": before("a")}, "x a b"),
        ({"a": L, "b": L, "x": after("a"), "y": after("a")}, "a x y b"),
        ({"a": L, "b": L, "x": before("b"), "y": before("b")}, "a x y b"),
        ({"a": L, "b": L, "x": after("a"), "y": after("x")}, "a x y b"),
        ({"a": L, "b": L, "y": after("x"), "x": after("a")}, "a x y b"),
        ({"a": L, "b": L, "x": after("a"), "y": before("x")}, "a y x b"),
        ({"a": after("b"), "b": L, "c": L}, "b a c"),  # moved, though it stood first
        ({"a": L, "gone": None, "b": L, "x": after("gone")}, "a x b"),
        ({"a": L, "b": None, "c": "linear"}, "a c"),
        ({"order": ["b", "a"], "a": L, "b": L, "c": L}, "b a c"),
        ({"order": ["b", "a"], "a": L, "b": L, "c": after("b")}, "b c a"),
        ({"order": ["b", "removed", "a"], "a": L, "b": L}, "b a"),
    ],
)
def test_order(parts, wanted):
    assert order(**parts) == wanted.split()
    found = placed(parts, "stack", "layer")
    assert not any("after" in spec or "before" in spec for spec in found.values())
    assert list(placed(dict(sorted(ordered(found).items())), "stack", "layer")) == wanted.split()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"a": L, "x": after("b")}, "stack.x.after=b: no layer of this name"),
        ({"a": L, "x": after(["a"])}, "stack.x.after=['a']: no layer of this name"),
        ({"tokens": L, "x": after("token")}, "(did you mean 'tokens'?)"),
        ({"a": after("b"), "b": after("a")}, "a, b stand after or before each other only"),
        ({"a": L, "b": after("b")}, "b stand after or before each other only"),
        ({"a": L, "b": {**L, "after": "a", "before": "a"}}, "after or before, not both"),
        ({"positions": L, "positons": {"x": 1}}, "stack.positons: unknown layer 'positons' (did"),
        ({"a": {"type": None}}, "stack.a.type=null: to leave the layer out, say stack.a=null"),
        ({"a": {}}, "unknown layer 'a'"),
        ({"a.b": L}, "a name must be"),
        ({"": L}, "a name must be"),
        ({3: L}, "a name must be"),
        ({"a": 5}, "stack.a=5: expected a mapping with 'type', or null"),
        ({"a": None}, "stack: empty"),
        ({"order": "a", "a": L}, "stack.order: expected a list of names"),
        ({"order": L, "a": L}, "stack.order: expected a list of names"),
        ([L], "expected layers by name"),
    ],
)
def test_what_has_no_place_is_refused(parts, said):
    with pytest.raises(ConfigError) as caught:
        placed(parts, "stack", "layer")
    assert len(caught.value.problems) == 1 and said in caught.value.problems[0]


def test_one_repeat_can_differ():
    feed_forward = {"type": "feed_forward", "hidden_dim": 4, "activation": "gelu"}
    inner = {"a": L, "b": {"type": "pre_norm", "norm": "rms_norm", "layer": feed_forward}}
    over = {
        0: {"layers": {"a": None}},
        "1": {"layers": {"b": {"layer": {"type": "mixture_of_experts", "num_experts": 2}}}},
        2: {"layers": {"c": {"type": "rms_norm", "before": "b"}, "b": {"norm": "layer_norm"}}},
    }
    blocks = {"type": "block", "repeat": 4, "layers": inner, "each": over}
    found = {name: spec for name, _, spec in entries({"blocks": blocks}, "stack", LAYERS)}
    assert list(found) == [f"blocks.{i}" for i in range(4)]
    assert found["blocks.3"]["layers"] == inner
    changed = found["blocks.1"]["layers"]["b"]["layer"]
    assert changed == {**feed_forward, "type": "mixture_of_experts", "num_experts": 2}
    stack = build_stack({"blocks": blocks}, embedding_dim=6)
    names = [list(stack.layers[f"blocks.{i}"].layers) for i in range(4)]
    assert names == [["b"], ["a", "b"], ["a", "c", "b"], ["a", "b"]]
    shapes = Layout(stack).shapes
    assert "blocks.1.b.router.weight" in shapes and "blocks.2.b.norm.bias" in shapes


def test_a_new_type_keeps_the_arguments_that_it_takes():
    spec = {"type": "layer_norm", "eps": 1e-3, "bias": False}
    assert LAYERS.merged(spec, {"type": "rms_norm"}) == {"type": "rms_norm", "eps": 1e-3}
    assert LAYERS.merged("layer_norm", {"bias": False}) == {"type": "layer_norm", "bias": False}
