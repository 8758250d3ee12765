"""A run's files that are no files, and checkpoints that go while they are looked up."""

import os
import shutil

import pytest
from small_run import finished_run, small_lab  # noqa: F401

from llmlab.errors import CheckpointError, ResourceError
from llmlab.regular_file import to_write
from llmlab.runs.log import LogFile
from llmlab.runs.lookup import load_present
from llmlab.runs.record import read_config, read_record
from llmlab.runs.sweep import read_sweep
from llmlab.train.callbacks.metrics import MetricsFile
from llmlab.train.rows import read_rows


@pytest.mark.parametrize("kind", ["fifo", "device", "link"])
def test_only_a_regular_file_is_written_to(tmp_path, kind):
    path, other = tmp_path / "metrics.jsonl", tmp_path / "other"
    other.write_text("mine")
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else other)
    for write in (MetricsFile, LogFile):
        with pytest.raises(ResourceError, match="cannot be written"):
            write(path)
    with pytest.raises(OSError, match="not a regular file"):
        to_write("/dev/null", os.O_WRONLY)
    assert other.read_text() == "mine"


def test_what_a_run_leaves_is_not_waited_for(tmp_path):
    for name in ("run.json", "sweep.json", "config.yaml", "metrics.jsonl"):
        os.mkfifo(tmp_path / name)
    for read in (read_record, read_sweep):
        with pytest.raises(CheckpointError, match="not a regular file"):
            read(tmp_path)
    assert read_config(tmp_path) is None
    with pytest.raises(OSError, match="not a regular file"):
        read_rows(tmp_path / "metrics.jsonl")


def test_a_checkpoint_that_is_gone_is_looked_up_again(lab, caplog):
    folder = lab.folder / "run/checkpoints"
    newest = sorted(folder.glob("step-*.npz"))[-1]
    gone = folder / "step-000000.npz"
    caplog.set_level("WARNING", "llmlab")
    assert load_present(gone).path == newest
    assert "removed by its run, which goes on" in caplog.text
    elsewhere = shutil.copy(newest, folder.parent / "alone.npz")
    assert load_present(elsewhere).path.name == "alone.npz"
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_present(folder.parent / "none.npz")
    newest.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="unusable"):
        load_present(newest)
