"""SGD, AdamW, Lion and Muon by their papers' formulas, and which weights they shrink."""

import numpy as np
import pytest
from optim_lab import (
    LR,
    MATRICES,
    UNDECAYED,
    adamw,
    hold,
    layout,
    run,
    zeropower,
)

from llmlab import kernels
from llmlab.errors import ConfigError
from llmlab.layers import Layer, Stack
from llmlab.layers.initialisations import normal
from llmlab.optim import OPTIMIZERS
from llmlab.optim.muon import matrices_of, orthogonal
from llmlab.params import Layout, Param
from llmlab.streams import stream
from llmlab.workspace import Context


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_adamw_shrinks_all_but_norms_and_biases(scale):
    def formula(name, p, gradients):
        return adamw(p, gradients, 0.0 if name in UNDECAYED else 0.5)

    hold({"type": "adamw", "weight_decay": 0.5}, formula, scale)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_sgd(momentum, nesterov, decay):
    if nesterov and not momentum:
        pytest.skip("needs momentum")

    def formula(name, p, gradients):
        m = np.zeros_like(p)
        for g in gradients:
            d = g + (0.0 if name in UNDECAYED else decay) * p
            m = momentum * m + d
            p = p - LR * (d + momentum * m if nesterov else m)
        return p

    spec = {"momentum": momentum, "nesterov": nesterov, "weight_decay": decay}
    hold({"type": "sgd", **spec}, formula, 0.5)


def test_lion_is_algorithm_2_of_its_paper():
    b1, b2, decay = 0.9, 0.99, 2.0

    def formula(name, p, gradients):
        m, shrink = np.zeros_like(p), 0.0 if name in UNDECAYED else decay
        for g in gradients:
            c = b1 * m + (1 - b1) * g
            p = p - LR * (np.sign(c) + shrink * p)
            m = b2 * m + (1 - b2) * g
        return p

    hold({"type": "lion", "weight_decay": decay}, formula, 0.7)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("scale", ["rms", "original"])
def test_muon_is_the_formula_for_matrices_and_adamw_for_the_rest(scale, nesterov):
    decay, factor = 0.4, 0.5

    def formula(name, p, gradients):
        if name not in MATRICES:
            shrink = 0.0 if name in UNDECAYED else decay
            return adamw(p, gradients, shrink, lr=factor * LR)
        p, m = p.T, np.zeros_like(p.T)
        d_out, d_in = p.shape
        long = 0.2 * max(d_out, d_in) ** 0.5 if scale == "rms" else max(1, d_out / d_in) ** 0.5
        for g in gradients:
            m = 0.95 * m + g.T
            d = g.T + 0.95 * m if nesterov else m
            p = p - LR * decay * p - LR * long * zeropower(d)
        return p.T

    spec = {"scale": scale, "nesterov": nesterov, "adam_lr_factor": factor}
    hold({"type": "muon", "weight_decay": decay, **spec}, formula)


@pytest.mark.parametrize("shape", [(30, 30), (12, 40), (40, 12), (1, 5), (5, 1)])
def test_newton_schulz_makes_singular_values_about_one(shape):
    ctx = Context(kernels.load("numpy"), np.float64)
    ctx.begin(0, 0)
    x = stream(0, "x").standard_normal(shape)
    u, s, v = np.linalg.svd(orthogonal(3e-4 * x, 5, ctx), full_matrices=False)
    assert s.max() < 1.25 and np.median(s) > 0.65
    wanted = np.linalg.svd(x, full_matrices=False)
    assert np.linalg.norm(u @ v - wanted[0] @ wanted[2]) < 0.3 * len(s) ** 0.5


def test_muon_gives_each_matrix_to_one_part():
    plan = layout()
    for count in (1, 2, 3, 5):
        names = [name for index in range(count) for name in matrices_of(plan, (index, count))]
        assert sorted(names) == sorted(MATRICES)


def test_muon_divides_the_work_once(monkeypatch):
    asked = []

    def counted(*arguments):
        asked.append(arguments)
        return matrices_of(*arguments)

    monkeypatch.setattr("llmlab.optim.muon.matrices_of", counted)
    run({"type": "muon"}, count=2)
    assert [part for _, part in asked] == [(0, 2), (1, 2)]


def test_muon_takes_what_is_no_matrix_by_adam():
    class Gain(Layer):
        def params(self):
            return {"gain": Param((4,), normal(1.0)), "cube": Param((2, 3, 4), normal(1.0))}

        def forward(self, p, x, ctx):
            return x, None

        def backward(self, p, g, dy, cache, ctx):
            return dy

    plan = Layout(Stack({"layer": Gain()}))
    rule = OPTIMIZERS.build("muon", "")
    params, grads = plan.init(0, np.float64), plan.zeros(np.float64)
    first = params.flat.copy()
    grads.flat[:] = 1
    state = {name: plan.zeros(np.float64) for name in rule.state_names}
    ctx = Context(kernels.load("numpy"), np.float64)
    for part in ((0, 2), (1, 2)):
        rule.update(params, grads, state, lr=0.1, step=1, scale=1.0, part=part, ctx=ctx)
    for name, view in params.items():
        before = first[plan.slices[name]].reshape(view.shape)
        assert np.allclose(view, before - 0.1 - 0.01 * before, atol=1e-6), name


@pytest.mark.parametrize("spec", ["sgd", "adamw", "lion", "muon"])
def test_parts_together_are_the_whole(spec):
    _, whole = run(spec, steps=4)
    for count in (2, 5):
        _, found = run(spec, count=count, steps=4)
        assert all(np.array_equal(found[name], whole[name]) for name in whole)


@pytest.mark.every_day(2)
@pytest.mark.parametrize(
    "spec",
    [
        "sgd",
        {"type": "sgd", "nesterov": True, "weight_decay": 0.1},
        {"type": "sgd", "momentum": 0.0},
        "adamw",
        "lion",
        "muon",
    ],
)
def test_kernel_sets_agree(spec):
    pytest.importorskip("numba")
    _, one = run(spec, dtype=np.float32, steps=5, scale=0.5)
    _, two = run(spec, dtype=np.float32, steps=5, scale=0.5, kernel_set="numba")
    for name, view in one.items():
        # Lion's sign may turn where the average is as good as 0.
        error = np.abs(two[name] - view)
        assert np.median(error) <= 1e-6, name
        assert spec == "lion" or error.max() <= 1e-4, name


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "sgd", "momentum": 1.0}, "momentum=1.0: must be in"),
        ({"type": "sgd", "momentum": 0.0, "nesterov": True}, "nesterov=true: needs a momentum"),
        ({"type": "sgd", "weight_decay": -0.1}, "weight_decay=-0.1: must not be negative"),
        ({"type": "adamw", "eps": 0.0}, "eps=0.0"),
        ({"type": "adamw", "weight_decay": float("nan")}, "weight_decay=nan"),
        ({"type": "lion", "beta2": 1.0}, "beta2=1.0"),
        ({"type": "muon", "scale": "rsm"}, "scale=rsm: must be rms or original"),
        ({"type": "muon", "iterations": 0}, "iterations=0"),
        ({"type": "muon", "adam_lr_factor": 0.0}, "adam_lr_factor=0.0"),
    ],
)
def test_refused(spec, said):
    with pytest.raises(ConfigError) as error:
        OPTIMIZERS.build(spec, "optimizer")
    assert any(said in problem for problem in error.value.problems), error.value.problems
