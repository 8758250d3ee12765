"""Trackers: what TensorBoard shows, and how steps are sent once."""

import json
import struct
import sys
import zlib

import numpy as np
import pytest
from event_files import shown

from llmlab.cli.start import compose
from llmlab.errors import MissingPackage
from llmlab.train.heat_map import grid_of, picture, png
from llmlab.train.trackers import TRACKERS, NoTracker
from llmlab.train.trackers.base import StepTracker, keep_id, kept_id
from llmlab.train.trackers.wandb import log_records


@pytest.fixture
def tensorboard(tmp_path):
    """Return a function that starts the tracker, as each process of a run does."""
    pytest.importorskip(
        "tensorboardX", reason="needs tensorboardX: pip install 'llmlab[tensorboard]'"
    )
    return lambda: TRACKERS.build(
        compose("tracker=tensorboard").tracker, "tracker", folder=tmp_path
    )


def test_tensorboard_gets_numbers_texts_and_pictures(tensorboard, tmp_path):
    tracker = tensorboard()
    tracker.flush()
    tracker.log(1, {"loss": 2.0, "lr": 0.5})
    tracker.log(2, {"loss": 1.5})
    tracker.text(2, "samples", "a → b\nc")
    tracker.picture(2, "updates", np.zeros((2, 3, 3), np.uint8))
    tracker.finish()
    assert shown(tmp_path / "tensorboard") == {
        (1, "loss"): 2.0,
        (1, "lr"): 0.5,
        (2, "loss"): 1.5,
        (2, "samples/text_summary"): "    a → b\n    c",
        (2, "updates"): png(np.zeros((2, 3, 3), np.uint8)),
    }


def test_a_resumed_run_replaces_the_steps_after_its_checkpoint(tensorboard, tmp_path):
    for process, steps in enumerate(((1, 2, 3, 4), (3, 4, 5))):  # killed at 4, saved at 2
        tracker = tensorboard()
        for step in steps:
            tracker.log(step, {"loss": float(process)})
        tracker.finish()
    losses = {1: 0.0, 2: 0.0, 3: 1.0, 4: 1.0, 5: 1.0}
    assert shown(tmp_path / "tensorboard") == {(s, "loss"): v for s, v in losses.items()}


def test_what_a_checkpoint_relies_on_is_written_and_nothing_over_it(tensorboard, tmp_path):
    tracker = tensorboard()
    tracker.log(3, {"loss": 1.0})
    tracker.flush()
    wanted = {(3, "loss"): 1.0}
    assert shown(tmp_path / "tensorboard") == wanted
    tracker.picture(3, "updates", np.zeros((1, 1, 3), np.uint8))  # of the same second
    tracker.finish()
    assert shown(tmp_path / "tensorboard").items() > wanted.items()


def test_a_run_without_a_step_leaves_no_file(tensorboard, tmp_path):
    tensorboard().finish()
    assert not (tmp_path / "tensorboard").exists()


PACKAGES = {
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
}


@pytest.mark.every_day(1)
@pytest.mark.parametrize("name", PACKAGES)
def test_without_the_package_it_says_what_to_install(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    given = {"folder": tmp_path, "name": "x", "config": {}}
    wanted = rf"needs the package '{PACKAGES[name]}': pip install 'llmlab\[{name}\]'"
    with pytest.raises(MissingPackage, match=wanted):
        TRACKERS.build(compose(f"tracker={name}").tracker, "tracker", **given)


# whole steps, once


class Shelf(StepTracker):
    """A tracker whose store is a list; `lost` of its steps never arrive."""

    MOST = 3

    def __init__(self, folder, store):
        super().__init__(folder)
        self.store, self.calls = store, []

    def _open(self):
        self.calls.append("open")
        return max((step for step, _ in self.store), default=0)

    def _send(self, steps):
        self.calls.append(sorted(steps))
        self.store += [(step, dict(values)) for step, values in steps.items()]

    def _close(self):
        self.calls.append("close")


def test_a_step_is_sent_whole_and_with_others(tmp_path):
    shelf = Shelf(tmp_path, [])
    shelf.flush()
    assert shelf.calls == []
    for step in range(1, 6):
        shelf.log(step, {"watch": float(step)})
        shelf.log(step, {"loss": -float(step)})
        shelf.text(step, "samples", "x")
        if step == 4:
            shelf.flush()
    shelf.picture(5, "map", np.zeros((1, 1, 3), np.uint8))
    shelf.finish()
    shelf.finish()
    assert shelf.calls == ["open", [1, 2, 3], [4], [5], "close"]
    assert shelf.store[1] == (2, {"watch": 2.0, "loss": -2.0, "samples": "x"})
    assert "map" in shelf.store[4][1]


def test_after_a_kill_no_step_is_doubled_and_none_is_missing(tmp_path):
    rows = [{"stage": "x", "step": step, "loss": step / 2, "skipped": 0} for step in range(1, 9)]
    lines = [json.dumps(row) + "\n" for row in rows]
    store = []
    first = Shelf(tmp_path, store)
    for row in rows[:6]:
        first.log(row["step"], {"loss": row["loss"]})
    # Killed at 6: what was sent last, 4, never arrived. The checkpoint is that of 5.
    store[:] = store[:3]
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:5]))
    again = Shelf(tmp_path, store)
    for row in rows[5:]:
        again.log(row["step"], {"loss": row["loss"]})
    again.finish()
    assert store == [(row["step"], {"loss": row["loss"]}) for row in rows]
    # Killed at 8, the checkpoint is that of 5: the store is ahead, and stays as it is.
    behind = Shelf(tmp_path, store)
    for row in [*rows[5:], {"step": 9, "loss": 4.5}]:
        behind.log(row["step"], {"loss": row["loss"]})
    behind.finish()
    assert [step for step, _ in store] == list(range(1, 10))


def test_a_tracker_that_cannot_send_is_closed(tmp_path):
    shelf = Shelf(tmp_path, [])
    shelf.log(1, {"loss": 1.0})
    shelf._send = lambda steps: 1 / 0
    with pytest.raises(ZeroDivisionError):
        shelf.finish()
    assert shelf.calls == ["open", "close"]


def test_the_id_of_a_run_is_kept(tmp_path, caplog):
    path = tmp_path / "x.json"
    assert kept_id(path) is None
    keep_id(path, "abc")
    assert kept_id(path) == "abc" and caplog.text == ""
    path.write_text("{")
    assert kept_id(path) is None
    assert "the tracker begins a new run" in caplog.text


def test_wandbs_files_are_read_as_far_as_they_go():
    def chunk(data, kind):
        return struct.pack("<IHB", 0, len(data), kind) + data

    long = b"x" * (32768 - 7 - 7)  # fills the first block
    data = b":W&B123" + chunk(long[:-3], 2) + b"\0" * 3 + chunk(b"y", 4) + chunk(b"z", 1)
    assert list(log_records(data)) == [long[:-3] + b"y", b"z"]
    assert list(log_records(data[:-1])) == [long[:-3] + b"y"]
    assert list(log_records(b"")) == []


def test_a_tracker_of_ones_own_can_do_without_pictures():
    tracker = NoTracker()
    tracker.picture(1, "x", np.zeros((1, 1, 3), np.uint8))
    tracker.text(1, "x", "y")
    tracker.flush()


# pictures


def test_a_grid_is_that_of_the_rows():
    rows = [
        {
            "step": step,
            "arrays": {"a": {"ratio": step / 10, "weight": [5.0]}},
            "entropy": {"x": [0.5, 1.0, None]},
            "dead": {},
            "stream": {"s": 1.0},
        }
        for step in (1, 2)
    ]
    assert grid_of(rows, "ratio") == (["a"], [1, 2], [[0.1, 0.2]])
    assert grid_of(rows, "weight") == (["a"], [1, 2], [[5.0, 5.0]])
    assert grid_of(rows, "entropy") == (["x"], [1, 2], [[0.75, 0.75]])
    assert grid_of(rows, "dead") == ([], [1, 2], [])


def test_a_picture_is_a_png_file():
    pixels = picture([[1e-3, None], [1.0, 1e-3]])
    assert pixels.shape == (24, 16, 3)
    assert (pixels[0, 0] == (68, 1, 84)).all() and (pixels[12, 0] == (253, 231, 37)).all()
    assert (pixels[0, 8] == 200).all()
    data = png(pixels)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        (checksum,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert checksum == zlib.crc32(kind + body)
        parts[kind], at = body, at + 12 + size
    assert struct.unpack(">IIBBBBB", parts[b"IHDR"]) == (16, 24, 8, 2, 0, 0, 0)
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(24, 49)
    assert (lines[:, 0] == 0).all() and (lines[:, 1:].reshape(24, 16, 3) == pixels).all()
