"""Memory of activations, measured with shapes alone: what a real step takes, to the byte."""

import tracemalloc

import numpy as np
import pytest
from layer_cases import TABLE
from networks import gpt_stack, rustgpt_stack

from llmlab import kernels
from llmlab.layers import LAYERS, Layer, Stack, build_stack
from llmlab.optim.adam import Adam
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.train.activations import activations, shape_array
from llmlab.train.memory import training_memory
from llmlab.workspace import Context

NUMPY = kernels.load("numpy")


def taken(stack, vocabulary, batch, time, dtype=np.float32):
    """Return the bytes that a real step takes from its workspace, with dropout on."""
    layout = Layout(stack)
    params, grads, ctx = layout.init(0, dtype), layout.zeros(dtype), Context(NUMPY, dtype)
    tokens = stream(1, "ids").integers(vocabulary, size=batch * time)
    weights, rng = np.ones(batch * time, dtype), [stream(0, row) for row in range(batch)]
    ctx.fresh = set(grads.ids)
    ctx.begin(batch, time, rng=rng, weights=weights)
    logits, cache = stack.forward(params.tree, tokens, ctx)
    _, dlogits = NUMPY.cross_entropy(ctx, logits, tokens, weights, 1.0)
    stack.backward(params.tree, grads.tree, dlogits, cache, ctx)
    return ctx.workspace.peak


def measured(stack, batch, time, dtype=np.float32):
    return activations(stack, Layout(stack), batch, time, dtype).peak


@pytest.mark.every_day(2)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("batch", "time"), [(1, 1), (1, 12), (8, 12), (8, 80), (3, 70)])
def test_a_network_takes_what_is_measured(batch, time, dtype):
    for stack, vocabulary in (
        (rustgpt_stack(), 533),
        (gpt_stack(100, 64, 150, hidden_dim=256, dropout=0.1), 100),
    ):
        real = taken(stack, vocabulary, batch, time, dtype)
        assert measured(stack, batch, time, dtype) == real


EVERY = {
    f"{layer} {name}".replace(" ", "-"): row
    for layer, rows in TABLE.items()
    for name, row in rows.items()
    if not row.segments and not row.positions
}


@pytest.mark.every_day(40)
@pytest.mark.parametrize("name", EVERY)
def test_a_layer_takes_what_is_measured(name):
    row = EVERY[name]
    sizes = row.sizes() | {"max_seq_len": 80}
    specs = dict(row.specs)
    if not row.ids:
        specs = {"tokens_before": "token_embedding", **specs}
    stack = build_stack(specs, **sizes)
    real = taken(stack, 1, 3, 70)
    found = measured(stack, 3, 70)
    # How many rows each expert gets isn't known; they are taken to get as many.
    assert found == pytest.approx(real, rel=0.05) if "experts" in name else found == real


def test_layers_have_their_shares_and_widths():
    stack = gpt_stack(vocab_size=300)
    found = activations(stack, Layout(stack), 2, 6)
    assert list(found.layers) == [path for path, _ in stack.leaves()]
    assert found.layers["tokens"] == (12 * 8 * 4, 8)
    assert found.layers["output"][1] == 300
    assert 0 < sum(size for size, _ in found.layers.values()) < found.peak
    for _, layer in stack.leaves():
        assert not {"forward", "backward"} & set(vars(layer))


def test_a_network_of_any_size_is_measured_without_memory():
    specs = {
        "tokens": "token_embedding",
        "blocks": {
            "type": "pre_norm",
            "repeat": 4,
            "norm": "rms_norm",
            "layer": {"type": "attention", "num_heads": 64, "positions": {"type": "rope"}},
        },
        "output": "output_projection",
    }
    stack = build_stack(specs, embedding_dim=8192, vocab_size=100_000, max_seq_len=4096)
    layout = Layout(stack)
    tracemalloc.start()
    memory = training_memory(stack, layout, Adam(), batch=64, time=4096)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert memory.activations > 2**40
    assert peak < 2**27


class Stubborn(Layer):
    """A plug-in that can't do without numbers."""

    def forward(self, p, x, ctx):
        np.linalg.inv(x[:1, :1])
        return x.copy(), None

    def backward(self, p, g, dy, cache, ctx):
        return dy.copy()


def test_what_cannot_be_measured_counts_as_nothing():
    tokens = LAYERS.build("token_embedding", "", vocab_size=9, embedding_dim=4)
    stack = Stack({"tokens": tokens, "stubborn": Stubborn()})
    assert activations(stack, Layout(stack), 2, 3) is None
    memory = training_memory(stack, Layout(stack), Adam(), batch=2, time=3)
    assert memory.activations == 0 and memory.parameters > 0


def test_arrays_of_shapes_alone():
    a, b = shape_array((2, 3, 4), np.float32), shape_array((4,), np.float32)
    assert (a + b).shape == (2, 3, 4) and (a + b).dtype == np.float32
    assert (
        a.sum() == 0 and a.sum(axis=1).shape == (2, 4) and a.max(axis=-1, keepdims=True).ndim == 3
    )
    a[0] = 1
    a.fill(2)
    np.copyto(a, 3)
    a += 4
    assert np.multiply(a, b, out=a) is a
    assert not np.asarray(a).any()
    assert a.reshape(6, 4).base is not None and a.strides == (0, 0, 0)
