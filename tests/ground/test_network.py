"""A network that can be asked: logits, its walk, and listeners that look or replace."""

import numpy as np
import pytest
from networks import gpt_stack
from trainer_lab import batch, trainer

from llmlab import kernels
from llmlab.layers import Stack
from llmlab.layers.attention import Attention
from llmlab.network import Network
from llmlab.params import Layout, walk_layers
from llmlab.workspace import Context

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])


@pytest.fixture
def network():
    stack = gpt_stack()
    return Network(stack, Layout(stack).init(0, np.float64), 12)


def test_logits_are_the_stacks(network):
    ctx = Context(kernels.load("numpy"), np.float64)
    ctx.begin(2, 4)
    wanted, _ = network.stack.forward(network.params.tree, IDS.reshape(-1), ctx)
    found = network.forward(IDS)
    assert found.shape == (2, 4, 11) and np.array_equal(found.reshape(8, 11), wanted)
    found = network.forward([5, 6, 7, 8])
    assert found.shape == (4, 11)
    np.testing.assert_allclose(found, wanted.reshape(2, 4, 11)[1], rtol=1e-12)


def test_circumstances_reach_the_layers(network):
    whole = network.forward(IDS[:1]).copy()
    packed = network.forward(
        IDS[:1], segments=np.array([[0, 0, 1, 1]]), positions=np.array([[0, 1, 0, 1]])
    ).copy()
    assert np.array_equal(packed[0, :2], whole[0, :2])
    np.testing.assert_allclose(packed[0, 2:], network.forward(IDS[0, 2:]), rtol=1e-12)
    last = network.forward(IDS, rows=np.array([3, 7]))
    assert last.shape == (2, 11)


def test_the_walk_gives_every_layer_its_parameters(network):
    found = list(network.walk())
    assert [(path, layer) for path, layer, _ in found] == list(walk_layers(network.stack))
    tree = network.params.tree
    wanted = {"": tree, "blocks.0.attention.qkv": tree["blocks.0"]["attention"][""]["qkv"]}
    for path, p in wanted.items():
        assert [each for name, _, each in found if name == path] == [p]


def test_a_listener_looks_at_every_layer_in_order(network):
    before = network.forward(IDS).copy()
    seen, inputs = [], []

    def post(path, layer, y, cache):
        seen.append((path, type(layer).__name__, y.shape))

    with network.listening(pre=lambda path, layer, x: inputs.append(path), post=post):
        found = network.forward(IDS).copy()
    assert np.array_equal(found, before)
    assert sorted(inputs) == sorted(path for path, *_ in seen)
    assert sorted(inputs) == sorted(path for path, _, _ in network.walk())
    assert inputs[:4] == ["", "tokens", "positions", "blocks.0"]
    order = ["attention.norm", "attention.qkv", "attention.out", "attention", "attention"]
    own = [path for path, *_ in seen if path.startswith("blocks.0.attention")]
    assert own == [f"blocks.0.{path}" for path in order]
    assert ("blocks.0.attention", "Attention", (8, 8)) in seen
    assert ("blocks.0.attention", "PreNorm", (8, 8)) in seen
    assert seen[-2:] == [("output", "TiedOutputProjection", (8, 11)), ("", "Stack", (8, 11))]
    seen.clear()
    network.forward(IDS)
    assert not seen


def test_a_listener_replaces_inputs_and_outputs(network):
    given = network.forward(IDS).copy()

    def without_attention(path, layer, y, cache):
        return np.zeros_like(y) if isinstance(layer, Attention) else None

    with network.listening(post=without_attention):
        ablated = network.forward(IDS).copy()
    assert not np.array_equal(ablated, given)
    # Nothing mixes tokens any more: each is as in a text of its own at that place.
    other = IDS.copy()
    other[:, :3] = 9
    with network.listening(post=without_attention):
        assert np.array_equal(network.forward(other)[:, 3], ablated[:, 3])

    def other_ids(path, layer, x):
        return other.reshape(-1) if path == "tokens" else None

    with network.listening(pre=other_ids):
        found = network.forward(IDS).copy()
    assert np.array_equal(found, network.forward(other))


def test_listeners_nest_and_end_also_with_an_error(network):
    heard = []

    def hear(name):
        return lambda path, layer, y, cache: heard.append(name) if path == "tokens" else None

    with network.listening(post=hear("outer")):
        with network.listening(post=hear("inner")):
            network.forward(IDS)
        assert heard == ["outer", "inner"]
        network.forward(IDS)
    assert heard == ["outer", "inner", "outer"]
    with pytest.raises(KeyError), network.listening(post=lambda *_: {}["missing"]):
        network.forward(IDS)
    for _, layer in walk_layers(network.stack):
        assert "forward" not in vars(layer)


def test_other_parameters_in_the_same_layers_are_not_heard(network):
    other = Network(network.stack, Layout(network.stack).init(1, np.float64))
    wanted, heard = other.forward(IDS).copy(), []
    with network.listening(post=lambda path, *_: heard.append(path)):
        assert np.array_equal(other.forward(IDS), wanted)
    assert not heard


def test_one_description_under_several_names_is_heard_under_each():
    part = gpt_stack()
    shared = part.layers["norm"]
    stack = Stack({**part.layers, "norm": shared, "again": shared, "output": part.layers["output"]})
    stack = Stack({k: stack.layers[k] for k in ("tokens", "norm", "again", "output")})
    network, heard = Network(stack, Layout(stack).init(0)), []
    with network.listening(post=lambda path, *_: heard.append(path)):
        network.forward(IDS)
    assert heard == ["tokens", "norm", "again", "output", ""]


def test_training_is_heard_in_this_process():
    with trainer() as one, trainer() as two:
        network, heard = Network(two.stack, two.params), set()
        with network.listening(post=lambda path, *_: heard.add(path)):
            result = two.step([batch([3, 4])])
        assert result == one.step([batch([3, 4])])
        assert np.array_equal(one.params.flat, two.params.flat)
        assert "blocks.1.feed_forward.down" in heard
