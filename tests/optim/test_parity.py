"""Optimizers and schedules against torch.optim over 20 steps, in float64."""

import numpy as np
import pytest
from optim_lab import LR, STEPS, UNDECAYED, gradient, run

from llmlab.optim import SCHEDULES

pytestmark = pytest.mark.parity

RULES = {
    "sgd": ({"momentum": 0.0}, lambda o, g: o.SGD(g, lr=LR)),
    "momentum": ({"momentum": 0.8}, lambda o, g: o.SGD(g, lr=LR, momentum=0.8)),
    "nesterov": (
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.3},
        lambda o, g: o.SGD(g, lr=LR, momentum=0.8, nesterov=True),
    ),
    "adam": ({}, lambda o, g: o.Adam(g, lr=LR)),
    "adamw": (
        {"beta1": 0.8, "beta2": 0.9, "eps": 1e-4, "weight_decay": 0.3},
        lambda o, g: o.AdamW(g, lr=LR, betas=(0.8, 0.9), eps=1e-4),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_twenty_steps(name):
    torch = pytest.importorskip("torch")
    arguments, make = RULES[name]
    kind = {"momentum": "sgd", "nesterov": "sgd"}.get(name, name)
    first, found = run({"type": kind, **arguments})
    tensors = {n: torch.from_numpy(p).requires_grad_() for n, p in first.items()}
    decay = arguments.get("weight_decay", 0.0)
    groups = [
        {"params": [t for n, t in tensors.items() if n not in UNDECAYED], "weight_decay": decay},
        {"params": [t for n, t in tensors.items() if n in UNDECAYED], "weight_decay": 0.0},
    ]
    rule = make(torch.optim, groups)
    for step in range(1, STEPS + 1):
        for n, tensor in tensors.items():
            tensor.grad = torch.from_numpy(gradient(n, step, tuple(tensor.shape)))
        rule.step()
    for n, tensor in tensors.items():
        wanted = tensor.detach().numpy()
        error = np.abs(found[n] - wanted).max()
        assert error <= 1e-10 * max(1.0, np.abs(wanted).max()), f"{n}: {error:.3g}"


def factors(torch, make, steps):
    """Return the learning rates that torch gives to steps 0, 1, …"""
    rule = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, found = make(torch.optim.lr_scheduler, rule), []
    for _ in range(steps):
        found.append(rule.param_groups[0]["lr"])
        rule.step()
        schedule.step()
    return found


@pytest.mark.parametrize("total", [10, 37])
def test_schedules(total):
    torch = pytest.importorskip("torch")
    pairs = {
        "linear": lambda s, r: s.LinearLR(r, 1.0, 0.0, total - 1),
        "cosine": lambda s, r: s.CosineAnnealingLR(r, total - 1, 0.1),
        "one_cycle": lambda s, r: s.OneCycleLR(r, 1.0, total),
    }
    arguments = {"one_cycle": {"start": 1 / 25, "final": 1 / 25 / 1e4}}
    for name, make in pairs.items():
        spec = {"type": name, **arguments.get(name, {})}
        schedule = SCHEDULES.build(spec, "schedule", total_steps=total)
        found = [schedule(step) for step in range(total)]
        assert found == pytest.approx(factors(torch, make, total), abs=1e-10), name
