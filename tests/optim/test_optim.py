"""Adam by the paper's formulas, in parts, and the schedules."""

import numpy as np
import pytest

from llmlab import kernels
from llmlab.errors import ConfigError
from llmlab.kernels.numpy_kernels import optim as optim_kernels
from llmlab.layers import build_stack
from llmlab.optim import OPTIMIZERS, SCHEDULES
from llmlab.optim.base import span
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.workspace import Context

SPECS = {"linear": {"type": "linear", "output_dim": 21}}


def layout():
    return Layout(build_stack(SPECS, embedding_dim=5))


def paper(p, gradients, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """Algorithm 1 of Kingma and Ba (2015), line by line."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p


def update(spec, gradients, count=1, scale=1.0, lr=0.01, dtype=np.float64):
    rule, plan = OPTIMIZERS.build(spec, "optimizer"), layout()
    params, grads = plan.init(0, dtype), plan.zeros(dtype)
    state = {name: plan.zeros(dtype) for name in rule.state_names}
    ctx = Context(kernels.load("numpy"), dtype)
    for step, gradient in enumerate(gradients, 1):
        grads.flat[:] = gradient
        for index in range(count):
            ctx.begin(0, 0)
            rule.update(
                params, grads, state, lr=lr, step=step, scale=scale, part=(index, count), ctx=ctx
            )
        assert np.array_equal(grads.flat, gradient.astype(dtype)), "the gradient was written to"
    return params.flat


def gradients(count=12):
    rng, size = stream(0, "gradients"), layout().size
    return [rng.standard_normal(size) * 10.0 ** rng.integers(-4, 2) for _ in range(count)]


SETTINGS = [{}, {"beta1": 0.5, "beta2": 0.9}, {"eps": 0.1}, {"beta1": 0.0}, {"beta2": 0.0}]


@pytest.mark.parametrize("arguments", SETTINGS)
def test_adam_is_the_paper(arguments):
    first = layout().init(0, np.float64).flat
    found = update({"type": "adam", **arguments}, gradients())
    wanted = paper(first, gradients(), 0.01, **arguments)
    assert np.abs(found - wanted).max() <= 1e-13 * max(1.0, np.abs(wanted).max())
    assert np.abs(found - first).max() > 0.01


def test_scale_is_a_factor_on_the_gradient():
    halved = [0.5 * g for g in gradients()]
    found = update("adam", gradients(), scale=0.5)
    assert np.abs(found - update("adam", halved)).max() <= 1e-14


def test_first_step_is_lr_whatever_the_gradient():
    first = layout().init(0, np.float64).flat
    for size in (1e-4, 1.0, 1e4):
        moved = update("adam", [np.full(len(first), size)]) - first
        assert np.allclose(moved, -0.01, rtol=1e-3)


@pytest.mark.parametrize("spec", OPTIMIZERS.names())
@pytest.mark.parametrize("count", [2, 3, 7, 100])
def test_parts_together_are_the_whole(spec, count):
    whole = update(spec, gradients(3), dtype=np.float32)
    assert np.array_equal(update(spec, gradients(3), count, dtype=np.float32), whole)


@pytest.mark.parametrize("spec", OPTIMIZERS.names())
def test_what_lies_between_the_arrays_stays_zero(spec):
    plan = layout()
    between = np.ones(plan.size, bool)
    for part in plan.slices.values():
        between[part] = False
    assert between.any()
    real = [np.where(between, 0, g) for g in gradients(3)]
    assert (update(spec, real)[between] == 0).all()


def test_chunks_are_invisible(monkeypatch):
    whole = update("adam", gradients(3))
    monkeypatch.setattr(optim_kernels, "CHUNK", 16)
    assert np.array_equal(update("adam", gradients(3)), whole)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 64])
def test_spans_cover_everything_once(size, count):
    spans = [span(size, (index, count)) for index in range(count)]
    seen = np.concatenate([np.arange(size)[part] for part in spans])
    assert np.array_equal(seen, np.arange(size))
    assert all(part.start % 16 == 0 or part.start == size for part in spans)


@pytest.mark.parametrize(
    "arguments",
    [{"beta1": 1.0}, {"beta1": -0.1}, {"beta2": 1.0}, {"eps": 0.0}, {"eps": float("nan")}],
)
def test_adam_refuses(arguments):
    ((name, _),) = arguments.items()
    with pytest.raises(ConfigError, match=rf"optimizer\.{name}="):
        OPTIMIZERS.build({"type": "adam", **arguments}, "optimizer")


def test_constant_schedule():
    schedule = SCHEDULES.build("constant", "schedule")
    assert [schedule(step) for step in (0, 1, 10**9)] == [1, 1, 1]
    rising = SCHEDULES.build({"type": "constant", "warmup_steps": 3}, "schedule")
    assert [rising(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    with pytest.raises(ConfigError, match=r"schedule\.warmup_steps=-1"):
        SCHEDULES.build({"type": "constant", "warmup_steps": -1}, "schedule")
