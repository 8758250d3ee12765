"""Gradients of whole networks, and proof that the check sees wrong ones."""

import numpy as np
import pytest
from networks import gpt_stack, rustgpt_stack

from llmlab import kernels
from llmlab.contract import Case, Watched, assert_gradients, difference
from llmlab.contract.layers import check_gradients
from llmlab.layers import Stack
from llmlab.layers.attention import Attention
from llmlab.layers.norms import LayerNorm
from llmlab.layers.output import OutputProjection
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.workspace import Context

NUMPY = kernels.load("numpy")
BATCH, TIME = 2, 4


class Network:
    """A network with tokens, padded targets and the mean loss over them."""

    def __init__(self, stack, vocab_size, kernel_set=NUMPY, batch=BATCH, time=TIME):
        self.stack, self.layout, self.kernels = stack, Layout(stack), kernel_set
        self.batch, self.time = batch, time
        self.params = self.layout.zeros(np.float64)
        self.fill(0)
        rng = stream(0, "tokens")
        self.inputs, self.targets = rng.integers(vocab_size, size=(2, batch * time))
        self.weights = np.ones(batch * time)
        self.weights[-1] = 0

    def fill(self, seed):
        """Initialise, then move biases and norms: at 0 and 1 the network hides mistakes.

        Without biases it doesn't change when a vector is scaled, which is what RustGPT's
        layer norm gets wrong.
        """
        self.params.flat[:] = self.layout.init(seed, np.float64).flat
        for name, view in self.params.items():
            if view.ndim == 1:
                view += 0.2 * stream(seed, "moved", name).standard_normal(view.shape)

    def pass_(self, dtype=np.float64, backward=True, kernel_set=None):
        """Return the loss and copies of the gradients."""
        used = kernel_set or self.kernels
        ctx, params = Context(used, dtype), self.params
        if dtype != np.float64:
            params = self.layout.zeros(dtype)
            params.flat[:] = self.params.flat
        ctx.begin(self.batch, self.time)
        logits, cache = self.stack.forward(params.tree, self.inputs, ctx)
        weights = self.weights.astype(dtype)
        scale = 1 / self.weights.sum()
        loss, dlogits = used.cross_entropy(ctx, logits, self.targets, weights, scale)
        grads = self.layout.zeros(dtype)
        if backward:
            self.stack.backward(params.tree, grads.tree, dlogits, cache, ctx)
        return loss * scale, grads

    def loss(self):
        return self.pass_(backward=False)[0]


def away_from_kinks(make, nearest=1e-4):
    """Return the first network of `make(seed)` with no ReLU near its kink."""
    for seed in range(50):
        network, watched = make(), Watched()
        network.fill(seed)
        network.pass_(backward=False, kernel_set=watched)
        if watched.nearest > nearest:
            return network
    raise AssertionError("no parameters found that keep away from the kinks")


def sample(name, own, count):
    """Return the place of the largest item, and of one in each of `count` runs of columns.

    Runs, because queries, keys and values lie side by side in one tensor.
    """
    places = [np.unravel_index(np.argmax(np.abs(own)), own.shape)]
    rng = stream(2, name)
    for run in np.array_split(np.arange(own.shape[-1]), count):
        if len(run):
            places.append((*(rng.integers(size) for size in own.shape[:-1]), rng.choice(run)))
    return places


def check_sampled(network, count=6, step=2e-6):
    """Compare a sample of every tensor's items with differences."""
    _, grads = network.pass_()
    found, wanted = {}, {}
    for name, array in network.params.items():
        places = sample(name, grads[name], count)
        found[name] = np.array([grads[name][at] for at in places])
        wanted[name] = np.array([difference(network.loss, array, at, step) for at in places])
    assert_gradients(found, wanted)


def test_rustgpt_has_as_many_parameters_as_rustgpt(rustgpt):
    layout = Layout(rustgpt)
    assert layout.num_parameters == 493_973
    assert layout.shapes["blocks.0.attention.qkv.weight"] == (128, 384)
    assert layout.shapes["output.weight"] == (128, 533)


@pytest.mark.slow
def test_gradients_of_rustgpt():
    check_sampled(away_from_kinks(lambda: Network(rustgpt_stack(), 533)))


@pytest.mark.every_day(1)
@pytest.mark.parametrize("norm", ["pre_norm", "post_norm"])
def test_gradients_of_a_tied_grouped_network(norm):
    # Every item; the shared table gets gradients from both ends.
    network = away_from_kinks(lambda: Network(gpt_stack(norm=norm, hidden_dim=12), 11), 1e-3)
    _, grads = network.pass_()
    wanted = {}
    for name, array in network.params.items():
        flat = array.reshape(-1)
        items = range(flat.size)
        numeric = [difference(network.loss, flat, at, 1e-5) for at in items]
        wanted[name] = np.reshape(numeric, array.shape)
    assert_gradients(dict(grads.items()), wanted)


@pytest.mark.parametrize("make", [rustgpt_stack, gpt_stack])
def test_float32_gradients_are_those_of_float64(make):
    network = Network(make(vocab_size=50), 50, time=6)
    loss, grads = network.pass_()
    loss32, grads32 = network.pass_(np.float32)
    assert loss32 == pytest.approx(loss, rel=1e-6)
    largest = max(np.abs(view).max() for _, view in grads.items())
    for name, view in grads.items():
        assert grads32[name].dtype == np.float32
        error = np.abs(grads32[name] - view).max()
        assert error <= 1e-5 * max(np.abs(view).max(), 1e-3 * largest), name


# Deliberately wrong, as RustGPT is: the checks above must see each of them.


class UnscaledAttention(Attention):
    """dq and dk without the factor 1/√D."""

    def backward(self, p, g, dy, cache, ctx):
        right = self.core
        turned = self.rotated_heads * self.head_dim

        class Wrong:
            def backward(_, dy, qkv, heads, kept, dqkv, ctx):
                right.backward(dy, qkv, heads, kept, dqkv, ctx)
                dqkv[:, :turned] /= right.scale

        self.core = Wrong()
        try:
            return super().backward(p, g, dy, cache, ctx)
        finally:
            self.core = right


class WrongVariance(LayerNorm):
    """The variance term with (x − mean) / deviation where (x − mean) belongs."""

    def backward(self, p, g, dy, cache, ctx):
        normed, inverse = cache
        dx = super().backward(p, g, dy, cache, ctx)
        term = normed * (dy * p["weight"] * normed).mean(axis=1, keepdims=True) * inverse
        return dx + term - term * inverse


class MeanBias(OutputProjection):
    """The mean over tokens instead of the sum."""

    def backward(self, p, g, dy, cache, ctx):
        kept = g["bias"].copy()
        dx = super().backward(p, g, dy, cache, ctx)
        g["bias"] -= (g["bias"] - kept) * (1 - 1 / len(dy))
        return dx


WRONG = [
    (UnscaledAttention(6, 2), Attention(6, 2), "layer.qkv.weight"),
    (WrongVariance(6), LayerNorm(6), "input"),
    (MeanBias(6, 7), OutputProjection(6, 7), "layer.bias"),
]


@pytest.mark.parametrize(("wrong", "right", "tensor"), WRONG, ids=lambda x: type(x).__name__)
def test_the_check_sees_a_wrong_layer(wrong, right, tensor):
    with pytest.raises(AssertionError, match=f"gradient of {tensor}"):
        check_gradients(Case([], stack=Stack({"layer": wrong})))
    check_gradients(Case([], stack=Stack({"layer": right})))


@pytest.mark.every_day(1)
@pytest.mark.parametrize("wrong", [UnscaledAttention, WrongVariance, MeanBias])
def test_the_check_sees_a_wrong_layer_in_the_whole_network(wrong):
    network = away_from_kinks(lambda: Network(rustgpt_stack(20, 16), 20))
    check_sampled(network, 3)
    layers = network.stack.layers
    post_norm = layers["blocks.1"].layers["attention"]
    places = {UnscaledAttention: post_norm.layer, WrongVariance: post_norm.norm}
    places.get(wrong, layers["output"]).__class__ = wrong
    with pytest.raises(AssertionError, match="gradient of"):
        check_sampled(network, 3)
