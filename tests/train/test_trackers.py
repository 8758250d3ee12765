"""Trackers: TensorBoard, with a stand-in for its package."""

import sys
from types import SimpleNamespace

import pytest

from llmlab.cli.start import compose
from llmlab.errors import ConfigError
from llmlab.train.trackers import TRACKERS


class Writer:
    """Writes down what tensorboardX is asked for."""

    made = ()

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.rows, self.closed = folder, purge_step, [], False
        Writer.made += (self,)

    def add_scalar(self, name, value, step):
        self.rows.append((name, value, step))

    def close(self):
        self.closed = True


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(Writer, "made", ())
    return lambda: Writer.made


def test_tensorboard_is_chosen_by_name(made, tmp_path):
    tracker = TRACKERS.build(compose("tracker=tensorboard").tracker, "tracker", folder=tmp_path)
    tracker.log(1, {"loss": 2.0, "lr": 0.1})
    tracker.log(2, {"loss": 1.5})
    tracker.finish()
    (writer,) = made()
    assert writer.folder == str(tmp_path / "tensorboard") and writer.closed
    assert writer.rows == [("loss", 2.0, 1), ("lr", 0.1, 1), ("loss", 1.5, 2)]


def test_a_resumed_run_replaces_the_steps_after_its_checkpoint(made, tmp_path):
    for steps in ((1, 2, 3, 4), (3, 4, 5)):  # killed at 4, the checkpoint is that of 2
        tracker = TRACKERS.build("tensorboard", "tracker", folder=tmp_path)
        for step in steps:
            tracker.log(step, {"loss": 1.0})
        tracker.finish()
    assert [writer.purge_step for writer in made()] == [1, 3]


def test_a_run_without_a_step_leaves_no_file(made, tmp_path):
    TRACKERS.build("tensorboard", "tracker", folder=tmp_path).finish()
    assert made() == ()


def test_without_the_package_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="pip install tensorboardX"):
        TRACKERS.build("tensorboard", "tracker", folder=tmp_path)
