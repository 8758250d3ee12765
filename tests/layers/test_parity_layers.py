"""Each layer against the same layer in PyTorch, in float64: output and every gradient."""

import numpy as np
import pytest

from llmlab import kernels
from llmlab.layers import build_stack
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.workspace import Context

pytestmark = pytest.mark.parity

BATCH, TIME, DIM, HIDDEN, VOCABULARY = 3, 70, 24, 40, 13  # more than one block of queries
SIZES = {"embedding_dim": DIM, "vocab_size": VOCABULARY, "max_seq_len": 80}
LIMIT = 1e-10
SEGMENTS = np.sort(stream(0, "segments").integers(4, size=(BATCH, TIME)), axis=1)


@pytest.fixture(scope="module")
def reference():
    torch = pytest.importorskip("torch")
    torch.set_default_dtype(torch.float64)
    import torch_models

    yield torch_models
    torch.set_default_dtype(torch.float32)


def attention(**options):
    names = {"heads": "num_heads", "kv_heads": "num_kv_heads"}
    spec = {names.get(key, key): value for key, value in options.items()}
    return {"type": "attention", **spec}, lambda r: r.Attention(DIM, **options)


def feed_forward(activation, bias=True):
    def make(r):
        return r.FeedForward(DIM, HIDDEN, r.ACTIVATIONS[activation], bias)

    options = {"hidden_dim": HIDDEN, "activation": activation, "bias": bias}
    return {"type": "feed_forward", **options}, make


def gated(activation, bias=False):
    options = {"hidden_dim": HIDDEN, "activation": activation, "bias": bias}
    return {"type": "gated_feed_forward", **options}, lambda r: r.GatedFeedForward(
        DIM, HIDDEN, r.ACTIVATIONS[activation], bias
    )


def sandwich():
    inner, make = attention(heads=4)
    spec = {"type": "sandwich_norm", "layer": inner, "norm": {"type": "rms_norm"}}
    return spec, lambda r: r.Sandwich(make(r), r.RMSNorm(DIM), r.RMSNorm(DIM))


def parallel():
    inner = {"attention": attention(heads=4), "feed_forward": feed_forward("gelu")}
    layers = {name: spec for name, (spec, _) in inner.items()}
    spec = {"type": "parallel", "layers": layers, "norm": {"type": "layer_norm"}}
    return spec, lambda r: r.Parallel({n: make(r) for n, (_, make) in inner.items()}, r.Norm(DIM))


def residual(kind):
    inner, make = attention(heads=4, kv_heads=2)
    spec = {"type": kind, "layer": inner, "norm": {"type": "layer_norm"}}
    return spec, lambda r: r.Residual(make(r), r.Norm(DIM), kind == "pre_norm")


PAIRS = {
    "linear": ({"type": "linear", "output_dim": 9}, lambda r: r.nn.Linear(DIM, 9)),
    "linear without bias": (
        {"type": "linear", "output_dim": 9, "bias": False},
        lambda r: r.nn.Linear(DIM, 9, bias=False),
    ),
    "output": ({"type": "output_projection"}, lambda r: r.nn.Linear(DIM, VOCABULARY)),
    "layer norm": ({"type": "layer_norm"}, lambda r: r.Norm(DIM)),
    "layer norm without bias": (
        {"type": "layer_norm", "bias": False, "eps": 0.1},
        lambda r: r.Norm(DIM, 0.1, bias=False),
    ),
    "one head": attention(heads=1, bias=False, output_projection=False),
    "heads": attention(heads=4),
    "heads without bias": attention(heads=4, bias=False),
    "heads without projection": attention(heads=4, output_projection=False),
    "grouped": attention(heads=6, kv_heads=2),
    "one key head": attention(heads=4, kv_heads=1),
    "relu": feed_forward("relu"),
    "relu without bias": feed_forward("relu", bias=False),
    "gelu_tanh": feed_forward("gelu_tanh"),
    "gelu": feed_forward("gelu"),
    "silu": feed_forward("silu"),
    "relu2": feed_forward("relu2"),
    "swiglu": gated("silu"),
    "geglu with bias": gated("gelu", bias=True),
    "rms norm": ({"type": "rms_norm", "eps": 1e-6}, lambda r: r.RMSNorm(DIM, 1e-6)),
    "sandwich norm": sandwich(),
    "parallel": parallel(),
    "pre-norm": residual("pre_norm"),
    "post-norm": residual("post_norm"),
}


def compare(reference, spec, make, segments=None):
    torch = reference.torch
    stack = build_stack({"layer": spec}, **SIZES)
    layout = Layout(stack)
    params, grads = layout.zeros(np.float64), layout.zeros(np.float64)
    for name, view in params.items():
        view[...] = 0.5 * stream(0, name).standard_normal(view.shape) + (view.ndim == 1)
    x = stream(0, "x").standard_normal((BATCH * TIME, DIM))
    ctx = Context(kernels.load("numpy"), np.float64)
    ctx.begin(BATCH, TIME, segments=segments)
    y, cache = stack.forward(params.tree, x, ctx)
    dy = stream(0, "dy").standard_normal(y.shape)
    dx = stack.backward(params.tree, grads.tree, dy, cache, ctx)

    module = make(reference)
    plain = {name.removeprefix("layer."): view for name, view in params.items()}
    reference.load(module, plain)
    inputs = torch.from_numpy(x.reshape(BATCH, TIME, DIM)).requires_grad_()
    masks = []
    if segments is not None:
        same = segments[:, :, None] == segments[:, None, :]
        masks = [torch.from_numpy(np.tril(same)[:, None])]
    outputs = module(inputs, *masks)
    outputs.backward(torch.from_numpy(dy).reshape(outputs.shape))
    close("output", y, outputs.detach().numpy())
    close("input", dx, inputs.grad.numpy())
    wanted = reference.collect(module)
    assert wanted.keys() == plain.keys()
    for name, gradient in wanted.items():
        close(name, grads[f"layer.{name}"], gradient)


def close(name, found, wanted):
    error = np.abs(found - wanted.reshape(found.shape)).max()
    assert error <= LIMIT * max(1.0, np.abs(wanted).max()), f"{name}: {error:.3g}"


@pytest.mark.parametrize("name", PAIRS)
def test_layer(reference, name):
    compare(reference, *PAIRS[name])


@pytest.mark.parametrize("name", ["one head", "grouped"])
def test_packed_rows(reference, name):
    compare(reference, *PAIRS[name], segments=SEGMENTS)


def test_weighted_cross_entropy(reference):
    torch, ctx = reference.torch, Context(kernels.load("numpy"), np.float64)
    logits = 3 * stream(1, "logits").standard_normal((50, VOCABULARY))
    targets = stream(1, "targets").integers(VOCABULARY, size=50)
    weights = stream(1, "weights").integers(0, 3, size=50) / 2.0
    ctx.begin(5, 10)
    scale = 1 / weights.sum()
    loss, dlogits = ctx.kernels.cross_entropy(ctx, logits, targets, weights, scale)
    z = torch.from_numpy(logits).requires_grad_()
    each = reference.F.cross_entropy(z, torch.from_numpy(targets), reduction="none")
    wanted = (each * torch.from_numpy(weights)).sum() * scale
    wanted.backward()
    assert abs(loss * scale - wanted.item()) <= LIMIT
    close("logits", dlogits, z.grad.numpy())


def test_embeddings(reference):
    torch, sizes = reference.torch, {"embedding_dim": DIM, "max_seq_len": 80}
    specs = {"tokens": {"type": "token_embedding"}, "positions": {"type": "learned_positions"}}
    for vocabulary in (VOCABULARY, 3000):  # the gradient takes another way above some size
        stack = build_stack(specs, vocab_size=vocabulary, **sizes)
        params = Layout(stack).init(0, np.float64)
        grads = Layout(stack).zeros(np.float64)
        ids = stream(2, "ids").integers(vocabulary, size=BATCH * TIME)
        ctx = Context(kernels.load("numpy"), np.float64)
        ctx.begin(BATCH, TIME)
        y, cache = stack.forward(params.tree, ids, ctx)
        dy = stream(2, "dy").standard_normal(y.shape)
        stack.backward(params.tree, grads.tree, dy, cache, ctx)
        tables = {n: torch.from_numpy(v.copy()).requires_grad_() for n, v in params.items()}
        block = torch.from_numpy(ids).reshape(BATCH, TIME)
        wanted = reference.F.embedding(block, tables["tokens.weight"])
        wanted = wanted + tables["positions.weight"][:TIME]
        wanted.backward(torch.from_numpy(dy).reshape(wanted.shape))
        close("output", y, wanted.detach().numpy())
        for name, table in tables.items():
            close(name, grads[name], table.grad.numpy())
