"""Power cuts at every point of several saves: no acknowledged save is lost."""

import contextlib
import shutil

import numpy as np
import pytest
from crashes import Recorder, disks_after

from llmlab import atomic_write
from llmlab.checkpoints import CheckpointFolder
from llmlab.errors import CheckpointError

STEPS = (0, 5, 9)


def state(step):
    return {"params/w": np.full((3, 2), step, "f4"), "optimizer/step": np.array(step)}


def record(folder, monkeypatch):
    """Save at each of STEPS; return the operations, and which had been done at each return."""
    recorder = Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(atomic_write, "os", recorder)
        checkpoints, acknowledged = CheckpointFolder(folder), []
        for step in STEPS:
            checkpoints.save(step, state(step), {"cursor": {"epoch": 0, "index": step}})
            acknowledged.append((len(recorder.operations), step))
    return recorder.operations, acknowledged


def losses(folder, operations, acknowledged, enough=10_000):
    """Count the crashes tried, and those after which the last acknowledged save wasn't there."""
    tried = lost = 0
    seen = set()
    for end in range(len(operations) + 1):
        promised = max((step for done, step in acknowledged if done <= end), default=-1)
        for disk in disks_after(operations[:end]):
            key = (promised, tuple(sorted((k, v) for k, v in disk.items() if v is not None)))
            if key in seen:
                continue
            seen.add(key)
            tried += 1
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for path, data in disk.items():
                if data is not None:
                    with contextlib.suppress(FileNotFoundError), open(path, "wb") as file:
                        file.write(data)
            lost += found_step(folder) < promised
            if lost >= enough:
                return tried, lost
    return tried, lost


def found_step(folder):
    try:
        checkpoint = CheckpointFolder(folder).load_latest()
    except CheckpointError:
        return -1
    if checkpoint is None:
        return -1
    step = checkpoint.meta["step"]
    assert np.array_equal(checkpoint.arrays["params/w"], state(step)["params/w"])
    assert checkpoint.meta["cursor"] == {"epoch": 0, "index": step}
    return step


@pytest.mark.slow
def test_no_acknowledged_save_is_lost(tmp_path, monkeypatch):
    folder = tmp_path / "run" / "checkpoints"
    operations, acknowledged = record(folder, monkeypatch)
    kinds = {operation[0] for operation in operations}
    assert kinds == {"create", "write", "sync", "sync folder", "replace", "unlink", "mkdir"}
    tried, lost = losses(folder, operations, acknowledged)
    assert tried > 300
    assert lost == 0


@pytest.mark.parametrize("left_out", ["sync folder", "sync"])
def test_without_either_sync_saves_are_lost(tmp_path, monkeypatch, left_out):
    """The negative control: the replay does see what each sync is for."""
    folder = tmp_path / "run" / "checkpoints"
    operations, acknowledged = record(folder, monkeypatch)
    kept = [operation for operation in operations if operation[0] != left_out]
    acknowledged = [
        (sum(operation[0] != left_out for operation in operations[:done]), step)
        for done, step in acknowledged
    ]
    assert losses(folder, kept, acknowledged, enough=5)[1] == 5
