"""A run ends when validation hasn't got better for long enough, also when it was continued."""

from dataclasses import replace

import numpy as np
import pytest
from fit_lab import OPTIONS, Log, Numbers, make

from llmlab.cli.start import compose
from llmlab.errors import ConfigError
from llmlab.train.callbacks.early_stopping import EarlyStopping
from llmlab.train.callbacks.validation import Validation, validation_every
from llmlab.train.fit import Progress, fit

STEPS = 30


def train(losses, patience, progress=None, steps=STEPS, every=1):
    """Return the progress of a run whose validation losses are given in advance."""
    progress, log = progress or Progress(), Log()
    given = iter(losses[progress.step // every :])
    watch = [Validation(lambda: next(given), every, steps), EarlyStopping(patience), log]
    with make() as t:
        t.steps = t.updates = progress.step
        fit(t, Numbers(100), steps=steps, progress=progress, callbacks=watch, **OPTIONS)
    return progress, log.rows


FALLING = [5.0, 4.0, 3.0, 3.5, 3.2, 2.9, 3.0, 3.1, 3.2, 2.0, 1.0]


def test_it_ends_after_patience_validations_without_a_best():
    progress, rows = train(FALLING, 3)
    assert (progress.step, progress.best_step, progress.best) == (9, 6, 2.9)
    assert progress.is_stale and len(rows) == 9
    progress, _ = train(FALLING, 2)
    assert (progress.step, progress.best_step) == (5, 3)


def test_it_goes_on_while_validation_falls():
    progress, _ = train([10.0 - step for step in range(STEPS)], 1)
    assert progress.step == STEPS and not progress.is_stale


def test_steps_between_validations_do_not_count():
    progress, _ = train([3.0, 2.0, 2.5, 2.6], 2, every=4)
    assert (progress.step, progress.best_step) == (16, 8)


def test_equal_and_infinite_losses_are_no_better():
    progress, _ = train([3.0, 3.0, np.nan, np.inf, 1.0], 3)
    assert (progress.step, progress.best, progress.best_step) == (4, 3.0, 1)


@pytest.mark.parametrize("stop", [3, 7, 8])
def test_a_continued_run_ends_where_it_would_have(stop):
    middle, _ = train(FALLING, 3, steps=stop)
    middle = Progress(**middle.to_dict())
    end, _ = train(FALLING, 3, progress=middle)
    whole, _ = train(FALLING, 3)
    # The parameters begin anew here, so the loss is another one.
    assert replace(end, loss_sum=0) == replace(whole, loss_sum=0)


def test_a_run_that_ended_does_nothing_more_but_with_more_patience_goes_on():
    ended = Progress(**train(FALLING, 3)[0].to_dict())
    again, rows = train(FALLING, 3, progress=ended)
    assert again.step == 9 and not rows
    longer, _ = train([*FALLING, *([9.0] * 20)], 5, progress=Progress(**ended.to_dict()))
    assert longer.best_step == 11 and longer.step == 16


def test_patience_without_validation_is_refused():
    said = r"patience=3: needs validations, and there are none; set data.pretrain.val_fraction"
    with pytest.raises(ConfigError, match=said):
        compose("patience=3")
    assert compose("patience=3", "data.tune.val_fraction=0.2").patience == 3
    assert compose("patience=3", "phase=summary").patience == 3
    with pytest.raises(ConfigError, match="patience=0: must be at least 1"):
        compose("patience=0", "data.tune.val_fraction=0.2")


@pytest.mark.parametrize(
    ("steps", "epoch", "every"),
    [(1000, 500, 100), (1000, 7, 7), (999, 500, 99), (5, 3, 1), (1, 1, 1), (10, 100, 1)],
)
def test_there_are_ten_validations_at_least(steps, epoch, every):
    assert validation_every(steps, epoch) == every
    due = {step for step in range(1, steps + 1) if step % every == 0} | {steps}
    assert len(due) >= min(10, steps)
