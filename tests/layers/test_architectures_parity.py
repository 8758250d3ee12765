"""Variants of attention and experts against PyTorch, in float64: output and every gradient."""

import numpy as np
import pytest

from llmlab import kernels
from llmlab.layers import build_stack
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.workspace import Context

pytestmark = pytest.mark.parity

BATCH, TIME, DIM, HEADS = 2, 150, 24, 4  # several blocks of queries
LIMIT = 1e-10
SEGMENTS = np.sort(stream(0, "segments").integers(4, size=(BATCH, TIME)), axis=1)


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    module.set_default_dtype(module.float64)
    yield module
    module.set_default_dtype(module.float32)


def halves(torch, x, angles):
    a, b = x.chunk(2, -1)
    turned = torch.cat([-b, a], -1)
    both = torch.cat([angles, angles], -1)
    return x * both.cos() + turned * both.sin()


def neighbours(torch, x, angles):
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    turned = z * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2)


def attention(torch, p, x, spec, segments=None, positions=None):
    """Write out what the layer documents; p holds llmlab's arrays as tensors."""
    heads, kv_heads = HEADS, spec.get("num_kv_heads", HEADS)
    d = DIM // heads
    qkv = x @ p["qkv.weight"] + p["qkv.bias"]
    q, k, v = (
        part.unflatten(-1, (-1, d)).transpose(1, 2)
        for part in qkv.split([heads * d, kv_heads * d, kv_heads * d], -1)
    )
    if spec.get("qk_norm"):
        q = torch.nn.functional.rms_norm(q, (d,), p["qk_norm.query.weight"], 1e-6)
        k = torch.nn.functional.rms_norm(k, (d,), p["qk_norm.key.weight"], 1e-6)
    where = spec.get("positions") or {"type": "none"}
    at = torch.arange(TIME)[None] if positions is None else torch.from_numpy(positions)
    if where["type"] == "rope":
        theta = where.get("theta", 10_000.0)
        if where.get("scaling") == "ntk":
            theta *= where["factor"] ** (d / (d - 2))
        speeds = theta ** -(torch.arange(0, d, 2) / d)
        time = at / (where["factor"] if where.get("scaling") == "linear" else 1)
        angles = (time[..., None] * speeds)[:, None]
        turn = neighbours if where.get("interleaved") else halves
        q, k = turn(torch, q, angles), turn(torch, k, angles)
    k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) / d**0.5
    if spec.get("logit_softcap"):
        scores = spec["logit_softcap"] * torch.tanh(scores / spec["logit_softcap"])
    distance = torch.arange(TIME)[:, None] - torch.arange(TIME)
    if where["type"] == "alibi":
        slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
        scores = scores - slopes[:, None, None] * distance
    hidden = (distance < 0) | (distance >= (spec.get("window") or TIME))
    if segments is not None:
        ids = torch.from_numpy(segments)
        hidden = (hidden | (ids[:, :, None] != ids[:, None, :]))[:, None]
    mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
    return mixed.transpose(1, 2).flatten(2) @ p["out.weight"] + p["out.bias"]


def compare(torch, spec, formula, dim=DIM, **begin):
    """Hold a layer to `formula(torch, tensors, x)`, which returns the output and extra loss."""
    stack = build_stack({"layer": spec}, embedding_dim=dim)
    layout = Layout(stack)
    params, grads = layout.zeros(np.float64), layout.zeros(np.float64)
    for name, view in params.items():
        view[...] = 0.5 * stream(0, name).standard_normal(view.shape) + (view.ndim == 1)
    x = stream(0, "x").standard_normal((BATCH * TIME, dim))
    ctx = Context(kernels.load("numpy"), np.float64)
    ctx.begin(BATCH, TIME, **begin)
    y, cache = stack.forward(params.tree, x, ctx)
    dy = stream(0, "dy").standard_normal(y.shape)
    dx = stack.backward(params.tree, grads.tree, dy, cache, ctx)

    tensors = {
        name.removeprefix("layer."): torch.from_numpy(view.copy()).requires_grad_()
        for name, view in params.items()
    }
    inputs = torch.from_numpy(x.reshape(BATCH, TIME, dim)).requires_grad_()
    outputs, extra = formula(torch, tensors, inputs)
    ((outputs * torch.from_numpy(dy).reshape(outputs.shape)).sum() + extra).backward()
    close("output", y, outputs.detach().numpy())
    close("input", dx, inputs.grad.numpy())
    for name, tensor in tensors.items():
        close(name, grads[f"layer.{name}"], tensor.grad.numpy())
    return ctx, extra


def close(name, found, wanted):
    error = np.abs(found - wanted.reshape(found.shape)).max()
    assert error <= LIMIT * max(1.0, np.abs(wanted).max()), f"{name}: {error:.3g}"


ROPE = {"type": "rope"}
ATTENTION = {
    "rope": {"positions": ROPE},
    "other theta": {"positions": {**ROPE, "theta": 500.0}},
    "interleaved rope": {"positions": {**ROPE, "interleaved": True}},
    "linear rope": {"positions": {**ROPE, "scaling": "linear", "factor": 4.0}},
    "ntk rope": {"positions": {**ROPE, "scaling": "ntk", "factor": 4.0}},
    "alibi": {"positions": {"type": "alibi"}},
    "short window": {"window": 9},
    "window": {"window": 70},
    "one token": {"window": 1},
    "qk norm": {"qk_norm": True},
    "softcap": {"logit_softcap": 2.0},
    "grouped": {"num_kv_heads": 2, "positions": ROPE, "window": 33},
    "all": {
        **{"num_kv_heads": 1, "positions": ROPE, "window": 20},
        **{"qk_norm": True, "logit_softcap": 1.5},
    },
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention(torch, name, packed):
    spec = ATTENTION[name]
    segments = SEGMENTS if packed else None
    positions = None
    if packed:
        new = np.diff(SEGMENTS, axis=1, prepend=-1) != 0
        starts = np.maximum.accumulate(np.where(new, np.arange(TIME), 0), axis=1)
        positions = np.arange(TIME) - starts

    def formula(torch, p, x):
        return attention(torch, p, x, spec, segments, positions), 0.0

    layer = {"type": "attention", "num_heads": HEADS, **spec}
    compare(torch, layer, formula, segments=segments, positions=positions)


def test_sinusoidal_positions(torch):
    def formula(torch, p, x):
        time = torch.arange(TIME)[:, None]
        speeds = 10_000.0 ** -(torch.arange(0, DIM, 2) / DIM)
        waves = torch.stack([(time * speeds).sin(), (time * speeds).cos()], -1).flatten(1)
        return x + waves, 0.0

    compare(torch, {"type": "sinusoidal_positions"}, formula)


def experts(torch, p, x, spec, weights):
    """Write out every expert for every token, and let the gates choose."""
    count, top_k = spec["num_experts"], spec["top_k"]
    flat = x.flatten(0, 1)
    probabilities = (flat @ p["router.weight"]).softmax(-1)
    gates, chosen = probabilities.topk(top_k, -1)
    if spec.get("normalize", True):
        gates = gates / gates.sum(-1, keepdim=True)
    y = torch.zeros_like(flat)
    for e in range(count):
        name = f"experts.{e}"
        hidden = torch.nn.functional.silu(flat @ p[f"{name}.gate.weight"])
        output = (hidden * (flat @ p[f"{name}.up.weight"])) @ p[f"{name}.down.weight"]
        y = y + (gates * (chosen == e)).sum(-1, keepdim=True) * output
    loss = 0.0
    w = torch.from_numpy(weights).reshape(BATCH, TIME, 1)
    picked = torch.nn.functional.one_hot(chosen, count).sum(1).double().reshape(BATCH, TIME, -1)
    for row in range(BATCH):
        tokens = w[row].sum()
        f = (w[row] * picked[row]).sum(0) / tokens / top_k
        mean = (w[row] * probabilities.reshape(BATCH, TIME, -1)[row]).sum(0) / tokens
        loss = loss + spec["balance"] * count * (f * mean).sum() * tokens
    return y.reshape(x.shape), loss


@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"top_k": 3}])
def test_mixture_of_experts(torch, options):
    spec = {"hidden_dim": 10, "num_experts": 5, "top_k": 2, "balance": 0.3, **options}
    weights = stream(0, "weights").integers(0, 2, BATCH * TIME) * 1.5
    scale = 1 / weights.sum()

    def formula(torch, p, x):
        y, loss = experts(torch, p, x, spec, weights)
        return y, loss * scale

    layer = {"type": "mixture_of_experts", **spec}
    ctx, extra = compare(torch, layer, formula, weights=weights, loss_scale=scale)
    assert ctx.extra_loss() * scale == pytest.approx(extra.item(), rel=1e-10)
