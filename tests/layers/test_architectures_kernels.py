"""The kernels of the newer layers: numba's against the reference, and what they leave alone."""

import numpy as np
import pytest

from llmlab import kernels
from llmlab.cli.start import compose
from llmlab.layers import build_stack
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.workspace import Context

BATCH, TIME, HEADS, HALF = 3, 5, 4, 3


def both():
    pytest.importorskip("numba")
    return [Context(kernels.load(name), np.float32) for name in ("numpy", "numba")]


def draw(name, *shape):
    return stream(0, name).standard_normal(shape).astype(np.float32)


def agree(found, tolerance=2e-6):
    one, two = found
    for a, b in zip(one, two, strict=True):
        assert a.dtype == b.dtype == np.float32
        assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(a).max())


@pytest.mark.every_day(2)
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "relu_squared"])
def test_activations(name):
    far = [0, 50, -50] if name in ("relu_squared", "gelu_tanh") else [0, 50, -50, 1e30, -1e30]
    x = np.concatenate([4 * draw("x", 999), far]).astype(np.float32)
    found = []
    for ctx in both():
        ctx.begin(1, 1)
        y, slope = getattr(ctx.kernels, name)(ctx, x.copy())
        found.append((y / np.maximum(1, np.abs(x)), slope))
    agree(found)


def test_rms_norm():
    x, weight, dy = draw("x", 7, 12), draw("w", 12), draw("dy", 7, 12)
    found = []
    for ctx in both():
        ctx.begin(1, 7)
        dweight = np.ones(12, np.float32)
        y, cache = ctx.kernels.rms_norm(ctx, x, weight, 1e-5)
        dx = ctx.kernels.rms_norm_backward(ctx, dy, weight, cache, dweight)
        found.append((y, *cache, dx, dweight))
    agree(found)


@pytest.mark.every_day(2)
@pytest.mark.parametrize("each_row", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
def test_rotations(interleaved, each_row):
    angles = draw("angles", BATCH if each_row else 1, TIME, HALF)
    rows = draw("rows", BATCH * TIME, (HEADS + 2) * 2 * HALF)
    found = []
    for ctx in both():
        ctx.begin(BATCH, TIME)
        turned = rows.copy()
        arguments = (HEADS, np.cos(angles), np.sin(angles), interleaved)
        ctx.kernels.rotate(ctx, turned, *arguments, False)
        assert np.array_equal(turned[:, HEADS * 2 * HALF :], rows[:, HEADS * 2 * HALF :])
        assert np.abs(turned - rows).max() > 0.1
        found.append((turned.copy(),))
        ctx.kernels.rotate(ctx, turned, *arguments, True)
        assert np.abs(turned - rows).max() <= 1e-6
    agree(found)


def test_averages():
    mean, p = draw("mean", 1000), draw("p", 1000)
    found = []
    for ctx in both():
        ctx.begin(0, 0)
        own = mean.copy()
        ctx.kernels.average(ctx, own, p, 0.9)
        assert np.abs(own - (0.9 * mean + 0.1 * p)).max() <= 1e-6
        found.append((own,))
    agree(found)


@pytest.mark.every_day(1)
@pytest.mark.parametrize("chosen", ["model=llama", "model=mixtral", "experiment=mixed"])
def test_whole_networks(chosen):
    sizes = ("model.embedding_dim=24", "model.hidden_dim=20", "model.num_blocks=2")
    model = compose(chosen, *sizes, "model.num_heads=4", "model.num_kv_heads=2").model
    shape = {key: model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    stack = build_stack(model["stack"], vocab_size=19, **shape)
    params = Layout(stack).init(0)
    ids = stream(0, "ids").integers(19, size=BATCH * 70)
    found = []
    for ctx in both():
        ctx.begin(BATCH, 70, weights=np.ones(BATCH * 70, np.float32), loss_scale=0.01)
        logits, cache = stack.forward(params.tree, ids, ctx)
        grads = Layout(stack).zeros()
        stack.backward(params.tree, grads.tree, draw("dy", *logits.shape), cache, ctx)
        found.append((logits.copy(), grads.flat))
    agree(found, 5e-5)
