"""The loop: epochs, accumulation, bad steps, and going on exactly where a run stood."""

import json

import numpy as np
import pytest
from fit_lab import OPTIONS, Log, Numbers, make
from trainer_lab import trainer

from llmlab.errors import ResourceError, TrainingError
from llmlab.train.callbacks.metrics import Metrics, MetricsFile
from llmlab.train.callbacks.progress_bar import ProgressBar
from llmlab.train.callbacks.validation import validation
from llmlab.train.fit import Callback, Progress, fit, total_steps
from llmlab.train.trackers import NoTracker
from llmlab.train.trainer import StepResult


@pytest.mark.every_day(2)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_continued_run_is_the_same_run(stop, threads):
    whole = Log()
    with make(threads) as t:
        end = fit(t, Numbers(), steps=8, callbacks=[whole], **OPTIONS)
        wanted = {name: array.copy() for name, array in t.arrays().items()}
    assert (end.epoch, end.index) == (2, 4)  # six batches an epoch, two a step

    first, second = Log(), Log()
    with make(threads) as t:
        progress = fit(t, Numbers(), steps=stop, callbacks=[first], **OPTIONS)
        saved = {name: array.copy() for name, array in t.arrays().items()}
        kept = progress.to_dict()
    with make(threads) as t:
        progress = Progress(**kept)
        t.load(saved, progress.step, progress.updates)
        again = fit(t, Numbers(), steps=8, progress=progress, callbacks=[second], **OPTIONS)
        found = {name: array.copy() for name, array in t.arrays().items()}
    assert again == end
    assert first.rows + second.rows == whole.rows
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.array_equal(found[name], array), name


def test_steps_epochs_and_rows():
    log, data = Log(), Numbers()
    assert total_steps(data, batch_size=2, accumulate=4, epochs=3, steps=None) == 6
    assert total_steps(data, batch_size=2, accumulate=4, epochs=3, steps=5) == 5
    with trainer() as t:
        options = {**OPTIONS, "accumulate": 4}
        progress = fit(t, data, steps=6, callbacks=[log], **options)
    tokens = sum(1 + i % 6 for i in range(11))
    assert (progress.step, progress.updates, progress.epoch, progress.index) == (6, 6, 3, 0)
    assert progress.tokens == 3 * tokens and log.rows[1]["tokens"] == tokens
    assert [row["epoch"] for row in log.rows] == [1, 1, 2, 2, 3, 3]
    assert [row["step"] for row in log.rows] == [1, 2, 3, 4, 5, 6]
    assert data.asked == [(0, 0), (1, 0), (2, 0)]
    assert log.calls == [("start", 0), ("end", 6)]
    keys = ["stage", "step", "epoch", "tokens", "loss", "lr", "grad_norm", "skipped"]
    assert list(log.rows[0]) == keys and log.rows[0]["stage"] == "test"


def test_a_run_that_is_finished_does_nothing():
    log = Log()
    with trainer() as t:
        fit(t, Numbers(), steps=0, callbacks=[log], **OPTIONS)
        assert t.steps == 0
    assert log.rows == [] and log.calls == [("start", 0), ("end", 0)]


class Spoils(Callback):
    """Put a NaN into the parameters after some step, take it out after another."""

    def __init__(self, trainer, first, last):
        self.trainer, self.first, self.last = trainer, first, last

    def on_step(self, progress, result, row):
        view = self.trainer.params["norm.bias"]
        if progress.step == self.first:
            self.kept = float(view[0])
            view[0] = np.nan
        if progress.step == self.last:
            view[0] = self.kept


def test_bad_steps_are_counted_and_survived():
    log = Log()
    with trainer() as t:
        spoils = [Spoils(t, 2, 4), Spoils(t, 5, 7)]
        progress = fit(t, Numbers(), steps=8, max_bad_steps=3, callbacks=[*spoils, log], **OPTIONS)
    assert (progress.step, progress.updates, progress.skipped, progress.bad) == (8, 4, 4, 0)
    assert [row["skipped"] for row in log.rows] == [0, 0, 1, 2, 2, 3, 4, 4]
    assert [row["loss"] is None for row in log.rows] == [False] * 2 + [True] * 2 + [
        False,
        True,
        True,
        False,
    ]
    assert log.rows[2]["grad_norm"] is None


def test_too_many_bad_steps_end_the_run():
    log = Log()
    with trainer() as t:
        spoils = Spoils(t, 2, 99)
        with pytest.raises(TrainingError, match="3 steps in a row, the last at step 5"):
            fit(t, Numbers(), steps=9, max_bad_steps=3, callbacks=[spoils, log], **OPTIONS)
        assert (t.steps, t.updates) == (5, 2)
    assert log.calls[-1] == ("end", 5)


def test_callbacks_hear_of_the_end_after_an_error():
    class Stops(Callback):
        def on_step(self, progress, result, row):
            raise KeyboardInterrupt

    log = Log()
    with trainer() as t, pytest.raises(KeyboardInterrupt):
        fit(t, Numbers(), steps=9, callbacks=[log, Stops()], **OPTIONS)
    assert log.calls == [("start", 0), ("end", 1)]


class Fails(Callback):
    def __init__(self, where):
        self.where = where

    def on_start(self, progress):
        if self.where == "start":
            raise ResourceError("no space")

    def on_end(self, progress):
        if self.where == "end":
            raise ConnectionError("the tracker is gone")


def test_callbacks_hear_of_the_end_after_a_start_that_failed(tmp_path):
    finished = []

    class Tracking(NoTracker):
        def finish(self):
            finished.append(True)

    log = Log()
    file = MetricsFile(tmp_path / "metrics.jsonl")
    watching = [
        log,
        Metrics(file, Tracking()),
        Fails("start"),
        ProgressBar("test", 1, show_progress=False),
    ]
    with trainer() as t, pytest.raises(ResourceError):
        fit(t, Numbers(), steps=1, callbacks=watching, **OPTIONS)
    assert log.calls == [("start", 0), ("end", 0)]
    assert finished == [True]
    with pytest.raises(ValueError, match="closed file"):
        file.sync()


def test_an_end_that_fails_keeps_no_other_from_its_own_and_hides_no_error(caplog):
    log = Log()
    with trainer() as t, pytest.raises(ConnectionError, match="gone"):
        fit(t, Numbers(), steps=1, callbacks=[Fails("end"), log], **OPTIONS)
    assert log.calls == [("start", 0), ("end", 1)]
    assert caplog.text == ""
    log = Log()
    with trainer() as t, pytest.raises(ResourceError, match="no space"):
        fit(t, Numbers(), steps=1, callbacks=[Fails("end"), Fails("start"), log], **OPTIONS)
    assert log.calls == [("end", 0)]
    assert "the tracker is gone" in caplog.text


def test_data_without_a_batch_is_an_error_not_an_endless_loop():
    with trainer() as t, pytest.raises(TrainingError, match="no batch after 0 of 0"):
        fit(t, Numbers(0), steps=3, **OPTIONS)
    with trainer() as t, pytest.raises(TrainingError, match="shorter than when this run began"):
        fit(t, Numbers(3), steps=3, progress=Progress(index=4), **OPTIONS)


class Adds(Callback):
    def __init__(self, **values):
        self.values = values

    def on_step(self, progress, result, row):
        row.update(self.values)


def test_what_a_callback_adds_is_made_fit_for_a_row(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    added = Adds(norm=np.float32(0.5), count=np.int64(3), bad=float("nan"), word="x", none=None)
    watching = {"metrics": Metrics(MetricsFile(path), NoTracker()), "mine": added}
    with trainer() as t:
        fit(t, Numbers(), steps=2, callbacks=watching, **OPTIONS)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    added = {"norm": 0.5, "count": 3, "bad": None, "word": "x", "none": None}
    assert [{key: row[key] for key in added} for row in rows] == [added] * 2
    told = [record.getMessage() for record in caplog.records]
    assert told == ["callback mine: bad=nan, written as null"]


def test_what_no_row_takes_is_refused_by_the_callbacks_name(tmp_path):
    with trainer() as t, pytest.raises(TrainingError, match="callback mine: it is a ndarray"):
        fit(t, Numbers(), steps=1, callbacks={"mine": Adds(it=np.ones(2))}, **OPTIONS)
    file = Metrics(MetricsFile(tmp_path / "m.jsonl"), NoTracker())
    broken = {"mine": Adds(loss=float("nan")), "metrics": file}
    with trainer() as t, pytest.raises(TrainingError, match="a callback has changed a row"):
        fit(t, Numbers(), steps=1, callbacks=broken, **OPTIONS)


@pytest.mark.parametrize(
    ("steps", "epoch", "given", "count"),
    [(100, 50, None, 10), (100, 4, None, 25), (5, 50, None, 5), (100, 50, 20, 5), (1, 1, None, 1)],
)
def test_there_are_ten_validations_unless_eval_every_says_otherwise(steps, epoch, given, count):
    watch = validation(lambda: 1.0, steps, epoch, given)
    measured = 0
    for step in range(1, steps + 1):
        row = {}
        watch.on_step(Progress(step=step), StepResult(1.0, 1.0, 0.1, 1.0, False), row)
        measured += "val_loss" in row
    assert measured == count
    assert validation(None, steps, epoch, given) is None
