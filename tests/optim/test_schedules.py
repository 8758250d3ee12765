"""Schedules: warm-up, shape, end; the same step always gives the same factor."""

from math import sqrt

import pytest

from llmlab.errors import ConfigError
from llmlab.optim import SCHEDULES

TOTAL = 50


def values(spec, total=TOTAL):
    schedule = SCHEDULES.build(spec, "schedule", total_steps=total)
    return [schedule(step) for step in range(total)]


@pytest.mark.parametrize("name", SCHEDULES.names())
@pytest.mark.parametrize("total", [1, 2, 3, 7, 50])
def test_every_schedule_stays_between_nothing_and_all(name, total):
    found = values(name, total)
    assert all(0 <= value <= 1 for value in found)
    assert max(found) > 0
    schedule = SCHEDULES.build(name, "schedule", total_steps=total)
    assert [schedule(step) for step in reversed(range(total))] == found[::-1]
    assert 0 <= schedule(total + 5) <= 1  # a run that was given more steps


@pytest.mark.parametrize("name", SCHEDULES.names())
@pytest.mark.parametrize("total", range(1, 11))
def test_a_short_run_reaches_the_full_rate(name, total):
    assert max(values(name, total)) == 1
    known = SCHEDULES.signature(name)
    options = [{"decay": share} for share in (0.01, 0.2, 0.5, 1.0)] if "decay" in known else [{}]
    if "warmup" in known:
        options = [{"warmup": share} for share in (0.01, 0.25, 0.5, 0.99)]
    for more in options:
        for warmup in range(total) if "warmup_steps" in known else [None]:
            own = more if warmup is None else more | {"warmup_steps": max(warmup, 1)}
            try:
                found = values({"type": name, **own}, total)
            except ConfigError:
                continue  # warm-up and fall overlap, or there is no step after the warm-up
            assert max(found) > 0.93, own
            assert max(found) == 1 or total == 10, own


def test_what_short_runs_do():
    assert values("one_cycle", 1) == [1.0]
    assert values({"type": "wsd", "warmup_steps": 1}, 2) == [0.5, 1.0]
    assert values({"type": "wsd", "warmup_steps": 1}, 3) == [0.5, 1.0, 0.0]
    assert values({"type": "wsd", "decay": 1.0}, 3) == [1.0, 0.5, 0.0]
    assert values("inverse_sqrt", 4) == [0.25, 0.5, 0.75, 1.0]
    assert values("inverse_sqrt", 400)[99] == 1


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
def test_warm_up_is_even_and_ends_at_one(name):
    found = values({"type": name, "warmup_steps": 4})
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(found) == found[4]


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("final", [0.0, 0.25])
def test_the_last_step_is_final(name, final):
    found = values({"type": name, "warmup_steps": 3, "final": final})
    assert found[-1] == pytest.approx(final, abs=1e-12)
    falling = found[4:]
    assert falling == sorted(falling, reverse=True)


def test_linear_and_cosine_are_half_way_in_the_middle():
    for name in ("linear", "cosine"):
        found = values({"type": name, "final": 0.2}, 51)
        assert found[0] == 1 and found[25] == pytest.approx(0.6)
    line = values({"type": "linear"}, 11)
    assert line == pytest.approx([1 - step / 10 for step in range(11)])


def test_wsd_stays_and_then_falls():
    found = values({"type": "wsd", "warmup_steps": 5, "decay": 0.2})
    assert found[5:40] == [1.0] * 35
    assert found[40:] == pytest.approx([1 - step / 10 for step in range(1, 11)])
    root = values({"type": "wsd", "decay": 0.2, "shape": "sqrt"})
    assert root[40:] == pytest.approx([1 - sqrt(step / 10) for step in range(1, 11)])


def test_inverse_sqrt():
    found = values({"type": "inverse_sqrt", "warmup_steps": 4})
    assert found[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, sqrt(4 / 5)])
    assert found[15] == pytest.approx(0.5)


def test_one_cycle():
    found = values({"type": "one_cycle", "warmup": 0.5, "start": 0.1, "final": 0.0}, 41)
    assert found[0] == pytest.approx(0.1) and found[-1] == pytest.approx(0, abs=1e-12)
    assert found.index(max(found)) in (19, 20)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "cosine", "warmup_steps": 50}, "warmup_steps=50: the run has only 50 steps"),
        ({"type": "constant", "warmup_steps": 50}, "warmup_steps=50: the run has only 50 steps"),
        ({"type": "linear", "warmup_steps": -1}, "warmup_steps=-1"),
        ({"type": "cosine", "final": 1.5}, "final=1.5: must be in [0, 1]"),
        ({"type": "wsd", "decay": 0.0}, "decay=0.0: must be more than 0"),
        ({"type": "wsd", "decay": 0.9, "warmup_steps": 20}, "warmup_steps=20, decay=0.9: overlap"),
        ({"type": "wsd", "shape": "cube"}, "shape=cube"),
        ({"type": "inverse_sqrt", "warmup_steps": 0}, "warmup_steps=0"),
        ({"type": "one_cycle", "warmup": 1.0}, "warmup=1.0"),
        ({"type": "one_cycle", "start": 2.0}, "start=2.0"),
    ],
)
def test_refused(spec, said):
    with pytest.raises(ConfigError) as error:
        values(spec)
    assert any(said in problem for problem in error.value.problems), error.value.problems
