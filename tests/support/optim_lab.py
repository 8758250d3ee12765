"""Optimizers on small arenas, for tests of their rules."""

import numpy as np

from llmlab import kernels
from llmlab.layers import build_stack
from llmlab.optim import OPTIMIZERS
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.workspace import Context

SPECS = {
    "tokens": {"type": "token_embedding"},
    "wide": {"type": "linear", "output_dim": 9},
    "norm": {"type": "layer_norm", "embedding_dim": 9},
    "tall": {"type": "linear", "embedding_dim": 9, "output_dim": 6},
    "output": {"type": "output_projection"},
}


STEPS, LR = 20, 0.01


MATRICES = {"wide.weight", "tall.weight"}


UNDECAYED = {"wide.bias", "tall.bias", "norm.weight", "norm.bias", "output.bias"}


def layout():
    return Layout(build_stack(SPECS, embedding_dim=6, vocab_size=7))


def gradient(name, step, shape):
    return stream(0, name, step).standard_normal(shape) * 10.0 ** (step % 3 - 1)


def run(spec, *, count=1, scale=1.0, steps=STEPS, dtype=np.float64, kernel_set="numpy"):
    """Return first and last values by name."""
    rule, plan = OPTIMIZERS.build(spec, "optimizer"), layout()
    params, grads = plan.init(0, dtype), plan.zeros(dtype)
    first = {name: view.copy() for name, view in params.items()}
    state = {name: plan.zeros(dtype) for name in rule.state_names}
    ctx = Context(kernels.load(kernel_set), dtype)
    for step in range(1, steps + 1):
        for name, view in grads.items():
            view[...] = gradient(name, step, view.shape)
        for index in range(count):
            ctx.begin(0, 0)
            part = (index, count)
            rule.update(params, grads, state, lr=LR, step=step, scale=scale, part=part, ctx=ctx)
    return first, dict(params.items())


def hold(spec, formula, scale=1.0):
    """Compare with `formula(name, p, gradients)`, tensor by tensor."""
    first, found = run(spec, scale=scale)
    for name, p in first.items():
        gradients = [scale * gradient(name, step, p.shape) for step in range(1, STEPS + 1)]
        wanted = formula(name, p, gradients)
        error = np.abs(found[name] - wanted).max()
        assert error <= 1e-12 * max(1.0, np.abs(wanted).max()), f"{name}: {error:.3g}"
        assert np.abs(wanted - p).max() > 1e-3


def adamw(p, gradients, decay, b1=0.9, b2=0.95, eps=1e-8, lr=LR):
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        p = p - lr * decay * p
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        p = p - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return p


def zeropower(g, steps=5):
    """Newton–Schulz as in Jordan et al. 2024, on matrices (d_out, d_in)."""
    a, b, c = (3.4445, -4.7750, 2.0315)
    x = g / (np.linalg.norm(g) + 1e-7)
    if g.shape[0] > g.shape[1]:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x
