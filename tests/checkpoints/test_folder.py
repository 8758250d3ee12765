"""A run's checkpoints: which are kept, which is the newest sound one, which the best."""

import errno
import logging
import os
import shutil

import numpy as np
import pytest

from llmlab.checkpoints import CheckpointFolder, load, peek
from llmlab.checkpoints import file as checkpoint_file
from llmlab.errors import CheckpointError, ResourceError


def fill(folder, *steps, best=(), keep=2):
    checkpoints = CheckpointFolder(folder, keep)
    for step in steps:
        arrays = {"params/w": np.full(200, step, "f4")}
        checkpoints.save(step, arrays, {"tokens": step}, best=step in best)
    return checkpoints


def names(folder):
    return sorted(path.name for path in folder.glob("*.npz"))


def damage(path, at=0.3):
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


def raised(error):
    raise error


def test_the_last_and_the_best_are_kept(tmp_path):
    folder = tmp_path / "runs" / "x" / "checkpoints"
    checkpoints = fill(folder, 0, 10, 20, 30, 1_000_000, best=(10,))
    assert names(folder) == ["step-000010.npz", "step-000030.npz", "step-1000000.npz"]
    assert checkpoints.steps()[-1] == (1_000_000, folder / "step-1000000.npz")
    assert checkpoints.latest() == folder / "step-1000000.npz"
    assert checkpoints.best() == folder / "step-000010.npz"
    assert (folder / "latest").read_text() == "step-1000000.npz\n"
    assert (folder / "best").read_text() == "step-000010.npz\n"
    meta = load(folder / "step-000030.npz").meta
    assert meta == {"tokens": 30, "step": 30, "best_step": 10}


def test_a_new_best_frees_the_old_one(tmp_path):
    checkpoints = fill(tmp_path, 1, 2, 3, 4, 5, best=(1, 3), keep=2)
    assert names(tmp_path) == ["step-000003.npz", "step-000004.npz", "step-000005.npz"]
    assert checkpoints.best() == tmp_path / "step-000003.npz"


@pytest.mark.parametrize(("stale", "patience", "handed_on"), [(1, 2, 3), (2, 2, 1), (5, None, 3)])
def test_a_run_that_patience_ended_hands_on_its_best(tmp_path, stale, patience, handed_on):
    checkpoints = fill(tmp_path, 1, 2, best=(1,))
    assert CheckpointFolder(tmp_path / "none").result() is None
    state = {"stale": stale, "patience": patience}
    checkpoints.save(3, {"params/w": np.zeros(2, "f4")}, state)
    assert checkpoints.result() == checkpoints.path(handed_on)
    assert checkpoints.latest() == checkpoints.path(3)  # which is what is continued


def test_without_a_count_of_stale_validations_there_were_none(tmp_path):
    checkpoints = fill(tmp_path, 1, 2, best=(1,))
    checkpoints.save(3, {"params/w": np.zeros(2, "f4")}, {"patience": 1})
    assert checkpoints.result() == checkpoints.path(3)


def test_keep_counts(tmp_path):
    fill(tmp_path, *range(6), keep=4)
    assert len(names(tmp_path)) == 4
    with pytest.raises(ValueError, match="at least 2"):
        CheckpointFolder(tmp_path, keep=1)


def test_order_is_the_steps_in_the_manifest_not_time_nor_name(tmp_path):
    checkpoints = fill(tmp_path, 5, 6)
    os.utime(tmp_path / "step-000005.npz", (4e9, 4e9))
    (tmp_path / "step-000006.npz").rename(tmp_path / "step-000001.npz")
    assert checkpoints.latest() == tmp_path / "step-000001.npz"


def test_an_empty_or_missing_folder_has_none(tmp_path):
    assert CheckpointFolder(tmp_path / "none").load_latest() is None
    assert CheckpointFolder(tmp_path).latest() is None
    assert CheckpointFolder(tmp_path).best() is None


@pytest.mark.parametrize("at", [0.3, 0.7, 0.98])
def test_a_damaged_newest_falls_back_and_says_so(tmp_path, caplog, at):
    """Whether the array, the manifest or the directory is hit."""
    checkpoints = fill(tmp_path, 9, 10)
    damage(tmp_path / "step-000010.npz", at)
    with caplog.at_level(logging.WARNING, "llmlab"):
        found = checkpoints.load_latest()
    assert found is not None and found.meta["step"] == 9
    assert "DAMAGED" in caplog.text and "step-000010.npz" in caplog.text
    assert f"falling back to {tmp_path / 'step-000009.npz'}" in caplog.text


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (MemoryError(), "not enough memory to load it; close other programs"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; raise the limit"),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            "Permission denied; give yourself read",
        ),
    ],
)
def test_what_the_system_refuses_is_no_damage_to_fall_back_from(
    tmp_path, monkeypatch, caplog, refusal, said
):
    checkpoints = fill(tmp_path, 9, 10)
    read = checkpoint_file.form.read

    def refusing(file, size):
        if os.fstat(file.fileno()).st_ino == newest.stat().st_ino:
            raise refusal
        return read(file, size)

    newest = tmp_path / "step-000010.npz"
    monkeypatch.setattr(checkpoint_file.form, "read", refusing)
    with pytest.raises(ResourceError, match=f"step-000010.npz: .*{said}"):
        checkpoints.load_latest()
    assert caplog.text == ""


def test_a_disk_that_cannot_read_a_file_has_damaged_it(tmp_path, monkeypatch, caplog):
    checkpoints = fill(tmp_path, 9, 10)
    read, answers = checkpoint_file.form.read, [OSError(errno.EIO, "Input/output error")]
    monkeypatch.setattr(
        checkpoint_file.form, "read", lambda *a: raised(answers.pop()) if answers else read(*a)
    )
    assert checkpoints.latest() == tmp_path / "step-000009.npz"
    assert "step-000010.npz: unusable checkpoint: Input/output error" in caplog.text


def test_a_damaged_one_hides_no_sound_one(tmp_path):
    """Wherever it stands among them: the sound ones count, and are deleted in their turn."""
    for hurt in range(1, 5):
        folder = tmp_path / f"{hurt}"
        checkpoints = fill(folder, 1, 2, 3, 4, keep=9)
        damage(checkpoints.path(hurt), 0.98)
        sound = [step for step in range(1, 5) if step != hurt]
        assert [step for step, _ in checkpoints.steps()] == sound
        fill(folder, 5)
        assert names(folder) == [f"step-00000{n}.npz" for n in sorted({hurt, sound[-1], 5})]


def test_a_damaged_old_one_is_no_news(tmp_path, caplog):
    checkpoints = fill(tmp_path, 9, 10)
    damage(tmp_path / "step-000009.npz", 0.98)
    found = checkpoints.load_latest()
    assert found is not None and found.meta["step"] == 10
    assert caplog.text == ""


def test_all_damaged_is_an_error(tmp_path):
    checkpoints = fill(tmp_path, 9, 10)
    for path in tmp_path.glob("*.npz"):
        damage(path)
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints is sound"):
        checkpoints.latest()


def test_lost_hints_change_nothing(tmp_path):
    checkpoints = fill(tmp_path, 1, 2, 3, best=(1,))
    (tmp_path / "latest").write_bytes(b"\0\0\0")
    (tmp_path / "best").unlink()
    assert checkpoints.latest() == tmp_path / "step-000003.npz"
    assert checkpoints.best() == tmp_path / "step-000001.npz"


def test_after_a_fall_back_the_damaged_future_pushes_nothing_out(tmp_path):
    checkpoints = fill(tmp_path, 10, 20)
    damage(tmp_path / "step-000020.npz")  # its array: the manifest still reads
    assert peek(tmp_path / "step-000020.npz")["step"] == 20
    fill(tmp_path, 12, 14)
    assert names(tmp_path) == ["step-000012.npz", "step-000014.npz", "step-000020.npz"]
    fill(tmp_path, 20)
    assert checkpoints.latest() == tmp_path / "step-000020.npz"
    assert names(tmp_path) == ["step-000014.npz", "step-000020.npz"]


def test_a_stopped_and_resumed_run_leaves_the_same_files(tmp_path):
    fill(tmp_path / "a", 1, 2, 3, 4, best=(2,))
    fill(tmp_path / "b", 1, 2, best=(2,))
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    fill(tmp_path / "c", 3, 4)  # a new process knows the best from the folder
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


def test_the_best_of_a_parent_run_is_taken_from_meta(tmp_path):
    CheckpointFolder(tmp_path).save(7, {}, {"best_step": 3})
    assert peek(tmp_path / "step-000007.npz")["best_step"] == 3
    assert CheckpointFolder(tmp_path).best() is None  # its file stayed with the parent


def test_leftovers_of_a_killed_process_go(tmp_path):
    fill(tmp_path, 1)
    (tmp_path / ".step-000002.npz.0123abcd.tmp").write_bytes(b"half")
    (tmp_path / "notes.tmp").write_text("mine")
    fill(tmp_path, 2)
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "notes.tmp").exists()


def test_a_damaged_best_isnt_given_out(tmp_path, caplog):
    checkpoints = fill(tmp_path, 1, 2, 3, best=(1,))
    damage(tmp_path / "step-000001.npz")
    assert checkpoints.best() is None
    assert "step-000001.npz" in caplog.text


def test_when_the_newest_best_is_damaged_the_one_before_is_given_out(tmp_path, caplog):
    checkpoints = fill(tmp_path, 1, 2, 3, best=(1, 3), keep=9)
    damage(tmp_path / "step-000003.npz")  # its array: the manifest still says that it is the best
    assert checkpoints.best() == tmp_path / "step-000001.npz"
    assert "step-000003.npz" in caplog.text


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path):
    checkpoints = fill(tmp_path, 10, 20, 30, best=(20,))
    left = tmp_path / ".step-000040.npz.0a1b2c3d.tmp"
    mine = [tmp_path / name for name in (".notes.tmp", "step-000040.npz.tmp", ".a.xyzxyzxy.tmp")]
    for path in (left, *mine):
        path.write_bytes(b"half")
    checkpoints.sweep()
    assert not left.exists() and all(path.exists() for path in mine)
    assert (tmp_path / "latest").read_text() == "step-000030.npz\n"
    assert (tmp_path / "best").read_text() == "step-000020.npz\n"


@pytest.mark.parametrize("content", ["step-000099.npz\n", "", "../x", "\0", "a link", "a pipe"])
def test_hints_that_name_no_checkpoint_are_mended(tmp_path, content):
    checkpoints = fill(tmp_path, 10, 20, 30, best=(20,))
    for name in ("latest", "best"):
        hint = tmp_path / name
        hint.unlink()
        if content == "a link":
            hint.symlink_to("/nowhere")
        elif content == "a pipe":
            os.mkfifo(hint)
        else:
            hint.write_text(content)
    checkpoints.sweep()
    assert (tmp_path / "latest").read_text() == "step-000030.npz\n"
    assert (tmp_path / "best").read_text() == "step-000020.npz\n"
    (tmp_path / "step-000020.npz").unlink()
    checkpoints.sweep()
    assert not (tmp_path / "best").exists()
    for path in tmp_path.glob("*.npz"):
        path.unlink()
    checkpoints.sweep()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_swept(tmp_path):
    CheckpointFolder(tmp_path / "none").sweep()
    assert not (tmp_path / "none").exists()
