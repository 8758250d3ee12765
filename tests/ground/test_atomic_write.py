"""Files written whole: what is synced and in which order, what a refusal says and leaves."""

import errno
import os

import pytest
from crashes import Recorder

from llmlab import atomic_write
from llmlab.errors import ResourceError


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(atomic_write, "os", recorder)
    return recorder


def kinds(recorder):
    return [operation[0] for operation in recorder.operations]


def test_a_text_is_synced_before_it_is_moved_and_its_folder_after(tmp_path, recorder):
    atomic_write.replace_text(tmp_path / "run.json", "ä")
    assert kinds(recorder) == ["create", "write", "sync", "replace", "sync folder"]
    assert (tmp_path / "run.json").read_bytes() == "ä".encode()


def test_a_hint_costs_no_sync(tmp_path, recorder):
    atomic_write.replace_text(tmp_path / "latest", "x", sync=False)
    assert kinds(recorder) == ["create", "write", "replace"]


def test_what_others_may_read_is_up_to_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write.replace_text(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    (tmp_path / "file").write_text("old")

    def write(file):
        file.write(b"new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ResourceError, match="No space left on device") as caught:
        atomic_write.replace_file(tmp_path / "file", write)
    assert str(caught.value) == (
        f"{tmp_path / 'file'}: cannot be written: No space left on device; what was saved before "
        "is intact: free some space, then resume"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("no number"), "no number; what was saved before is intact: make the folder"),
        (OSError(errno.EROFS, "Read-only"), "choose a folder that can be written, then resume"),
        (OSError(errno.EISDIR, "Is a directory"), "make the folder writable, then resume"),
    ],
)
def test_a_refusal_names_the_file_the_reason_and_what_to_do(tmp_path, error, said):
    message = str(atomic_write.refused(tmp_path, error))
    assert message.startswith(f"{tmp_path}: cannot be written: ")
    assert said in message and "None" not in message


def test_folders_are_made_each_synced_into_its_parent(tmp_path, recorder):
    deep = tmp_path / "a" / "b"
    assert atomic_write.make_folder(deep) == deep and deep.is_dir()
    synced = [operation for operation in recorder.operations if operation[0] != "create"]
    assert synced == [
        ("mkdir", str(tmp_path / "a")),
        ("sync folder", str(tmp_path)),
        ("mkdir", str(deep)),
        ("sync folder", str(tmp_path / "a")),
    ]
    recorder.operations.clear()
    atomic_write.make_folder(deep)
    assert not recorder.operations


def test_another_may_make_the_folder_first(tmp_path, monkeypatch, recorder):
    def mkdir(path):
        os.mkdir(path)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(recorder, "mkdir", mkdir, raising=False)
    assert atomic_write.make_folder(tmp_path / "a").is_dir()


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResourceError) as caught:
            atomic_write.make_folder(folder)
        assert str(caught.value).startswith(f"{folder}: cannot be written: Not a directory; ")
        assert isinstance(caught.value.__cause__, OSError)


def test_removing_what_is_gone_or_refused_is_no_error(tmp_path):
    atomic_write.remove(tmp_path / "gone")
    atomic_write.remove(tmp_path)  # a folder: refused
    (tmp_path / "file").touch()
    atomic_write.remove(tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_file_is_no_folder_to_sync(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        atomic_write.sync_folder(tmp_path / "file")
