"""`optimizer.no_decay`: which parameters weight decay leaves alone, by name."""

import numpy as np
import pytest
from optim_lab import LR, MATRICES, UNDECAYED, adamw, hold, layout, run, zeropower
from small_run import KEYS, finished_run, small_lab  # noqa: F401 - fixtures

from llmlab.checkpoints import load
from llmlab.errors import ConfigError
from llmlab.layers import build_stack
from llmlab.optim import OPTIMIZERS
from llmlab.optim.base import decayed
from llmlab.params import Layout

# Between what is decayed, so that no single border divides the vector.
PATTERNS = ["tall.*", "t?kens.weight"]
SPARED = UNDECAYED | {"tall.weight", "tokens.weight"}


def shrink(name, decay):
    return 0.0 if name in SPARED else decay


def sgd(name, p, gradients):
    m = np.zeros_like(p)
    for g in gradients:
        m = 0.9 * m + g + shrink(name, 0.3) * p
        p = p - LR * m
    return p


def lion(name, p, gradients):
    m = np.zeros_like(p)
    for g in gradients:
        p = p - LR * (np.sign(0.9 * m + 0.1 * g) + shrink(name, 0.3) * p)
        m = 0.99 * m + 0.01 * g
    return p


def muon(name, p, gradients):
    if name not in MATRICES:
        return adamw(p, gradients, shrink(name, 0.3))
    p, m = p.T, np.zeros_like(p.T)
    for g in gradients:
        m = 0.95 * m + g.T
        long = 0.2 * max(p.shape) ** 0.5
        p = p - LR * shrink(name, 0.3) * p - LR * long * zeropower(g.T + 0.95 * m)
    return p.T


RULES = {
    "sgd": sgd,
    "adamw": lambda name, p, gradients: adamw(p, gradients, shrink(name, 0.3)),
    "lion": lion,
    "muon": muon,
}


@pytest.mark.parametrize("kind", RULES)
def test_the_named_ones_keep_their_size_and_the_others_shrink(kind):
    spec = {"type": kind, "weight_decay": 0.3, "no_decay": PATTERNS}
    hold(spec, RULES[kind])
    _, whole = run(spec, steps=3)
    for count in (2, 5):
        _, found = run(spec, steps=3, count=count)
        assert all(np.array_equal(found[name], whole[name]) for name in whole)


def test_every_optimizer_that_decays_takes_it():
    for kind in OPTIMIZERS.names():
        arguments = OPTIMIZERS.describe(kind)
        assert ("no_decay" in arguments) == ("weight_decay" in arguments), kind


@pytest.mark.parametrize("patterns", [(), ("tall.*",), ("*",), ("tokens.*", "output.weight")])
def test_the_parts_cover_everything_once(patterns):
    plan = layout()
    for begin in range(0, plan.size + 1, 16):
        for end in range(begin, plan.size + 1, 16):
            parts = decayed(plan, slice(begin, end), patterns)
            seen = [index for at, _ in parts for index in range(at.start, at.stop)]
            assert seen == list(range(begin, end))
    shrinks = {n: decayed(plan, at, patterns)[0][1] for n, at in plan.slices.items()}
    assert not any(shrinks[name] for name in UNDECAYED)
    assert shrinks["wide.weight"] == ("*" not in patterns)


def test_a_tied_head_may_be_named_as_either():
    specs = {
        "tokens": {"type": "token_embedding"},
        "output": {"type": "tied_output_projection"},
    }
    plan = Layout(build_stack(specs, embedding_dim=4, vocab_size=5))
    (alias,) = plan.aliases
    for name in ("tokens.weight", alias):
        OPTIMIZERS.build({"type": "adamw", "no_decay": [name]}, "").check(plan)
        assert decayed(plan, slice(0, plan.size), (name,)) == [(slice(0, plan.size), False)]


def test_patterns_that_match_nothing_are_named():
    rule = OPTIMIZERS.build({"type": "lion", "no_decay": ["tall.*", "wdie.weight", "x"]}, "")
    with pytest.raises(ConfigError) as error:
        rule.check(layout())
    (said,) = error.value.problems
    assert said == (
        "optimizer.no_decay: no parameter matches wdie.weight (did you mean 'wide.weight'?), x; "
        "a name is like wide.weight"
    )
    for wrong in ("tall.*", [1], {"a": 1}):
        with pytest.raises(ConfigError, match=r"no_decay=.*expected a list"):
            OPTIMIZERS.build({"type": "sgd", "no_decay": wrong}, "optimizer")


ADAMW = [*KEYS, "optimizer=adamw", "optimizer.no_decay=[tokens.*,blocks.?.attention.*]"]


def test_a_wrong_pattern_ends_a_command_before_it_begins(lab):
    before = lab.tree()
    answer = lab(*KEYS, "optimizer=adamw", "optimizer.no_decay=[embedding.*]", "steps=1")
    assert answer.code == 2 and lab.tree() == before
    (problem,) = answer.problems
    assert problem.startswith("error: optimizer.no_decay: no parameter matches embedding.*")


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_patterns(lab):
    assert lab(*ADAMW, "steps=4", "save_every=2", "hydra.run.dir=whole/run").code == 0
    assert lab(*ADAMW, "steps=2", "hydra.run.dir=parts/run").code == 0
    assert lab("resume=parts/run", "steps=4").code == 0
    whole, parts = (
        load(lab.folder / name / "run/checkpoints/step-000004.npz") for name in ("whole", "parts")
    )
    assert parts.meta["config"]["optimizer"]["no_decay"] == ["tokens.*", "blocks.?.attention.*"]
    for name, array in whole.arrays.items():
        assert np.array_equal(array, parts.arrays[name]), name
