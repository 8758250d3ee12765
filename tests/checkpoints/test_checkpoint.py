"""One checkpoint file: what comes back, what is refused, and that equal states are equal files."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from forgery import entry, forge, npy

from llmlab.checkpoints import UPGRADES, compare, load, peek, save
from llmlab.checkpoints import format as checkpoint_format
from llmlab.errors import CheckpointError, ResourceError, TrainingError

FIXTURES = Path(__file__).parents[1] / "fixtures"


def state():
    rng = np.random.default_rng(0)
    arrays = {
        "params/blocks.0.attention.weight": rng.normal(size=(5, 7)).astype("f4"),
        "params/head.bias": rng.normal(size=5),
        "optimizer/m/head.bias": np.array([np.inf, 0, 1, 2, 3]),
        "optimizer/step": np.array(2**40),
        "empty": np.zeros((0, 3), "f4"),
        "flags": np.array([True, False]),
        "file": np.arange(3, dtype="i4"),
        "allow_pickle": np.arange(3, dtype="u1"),
        "schrödinger/q k.weight": np.zeros(2, "f2"),
    }
    meta = {
        "step": 3,
        "random": {"state": 2**127 + 1, "inc": -(2**200)},
        "words": ["é", "\ud800", "${x}"],
        "best": None,
        "lr": 5e-4,
    }
    return arrays, meta


def refuses(path, *words):
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message and "allow_pickle" not in message
    for word in words:
        assert word in message
    return caught.value


# --- what comes back -----------------------------------------------------------------------------


def test_everything_comes_back(tmp_path):
    arrays, meta = state()
    size = save(tmp_path / "a.npz", arrays, meta)
    assert size == (tmp_path / "a.npz").stat().st_size
    found = load(tmp_path / "a.npz")
    assert found.meta == meta and found.path == tmp_path / "a.npz"
    assert found.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        got = found.arrays[name]
        assert got.dtype == array.dtype and got.shape == array.shape
        assert got.tobytes() == array.tobytes()
        assert got.flags.writeable and got.flags.c_contiguous
    assert peek(str(tmp_path / "a.npz")) == meta


def test_any_layout_and_byte_order_is_stored_as_little_endian_c(tmp_path):
    plain = np.arange(12, dtype="f4").reshape(3, 4)
    odd = {"a": np.asfortranarray(plain), "b": plain.astype(">f4"), "c": plain[::2, ::-1]}
    save(tmp_path / "a.npz", odd, {})
    found = load(tmp_path / "a.npz").arrays
    for name, array in odd.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype.str == "<f4" and found[name].flags.c_contiguous
    same_bytes = {name: np.ascontiguousarray(array, "<f4") for name, array in odd.items()}
    save(tmp_path / "b.npz", same_bytes, {})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_equal_states_are_equal_files(tmp_path, monkeypatch):
    arrays, meta = state()
    save(tmp_path / "a.npz", arrays, meta)
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("os.getpid", lambda: 4711)
    (tmp_path / "elsewhere").mkdir()
    backwards = [dict(reversed(each.items())) for each in (arrays, meta)]
    save(tmp_path / "elsewhere" / "b.npz", *backwards)
    one, two = (tmp_path / "a.npz").read_bytes(), (tmp_path / "elsewhere" / "b.npz").read_bytes()
    assert one == two
    assert str(tmp_path).encode() not in one
    # Frozen: another version of Python or NumPy must not change a byte.
    save(tmp_path / "c.npz", {"params/w": np.arange(6, dtype="f4").reshape(2, 3)}, {"step": 1})
    digest = hashlib.sha256((tmp_path / "c.npz").read_bytes()).hexdigest()
    assert digest == "1e76a17735229d8c7128b12a730f4fae7690a92c44c11a9b8b1aafbe147f80b2"


def test_plain_numpy_reads_it(tmp_path):
    arrays, meta = state()
    save(tmp_path / "a.npz", arrays, meta)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        for name, array in arrays.items():
            assert np.array_equal(stored[name], array) and stored[name].shape == array.shape
        manifest = json.loads(stored["manifest"].tobytes())
        seal = stored["manifest.sha256"].tobytes()
        assert hashlib.sha256(stored["manifest"].tobytes()).digest() == seal
    assert manifest["meta"] == meta and manifest["format"] == checkpoint_format.FORMAT
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.testzip() is None


# --- what can't be saved -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "../a", "a/../b", "a\0b", "a\\b", "a.npy", "manifest", "a\nb"]
)
def test_a_name_that_could_mislead_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="name of a stored array"):
        save(tmp_path / "a.npz", {name: np.zeros(1)}, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("array", [np.array([None]), np.array(["x"]), np.zeros(1, "c16")])
def test_a_dtype_that_needs_pickle_or_isnt_listed_is_refused(tmp_path, array):
    with pytest.raises(TypeError, match="can't be stored"):
        save(tmp_path / "a.npz", {"a": array}, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("meta", "error"),
    [({"a": {1: 2}}, TypeError), ({"a": [{1: 2}]}, TypeError), ({"a": float("nan")}, ValueError)],
)
def test_meta_that_json_would_change_is_refused(tmp_path, meta, error):
    with pytest.raises(error):
        save(tmp_path / "a.npz", {}, meta)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_parameters_are_neither_saved_nor_loaded(tmp_path, value):
    arrays = {"params/w": np.array([1, value], "f4"), "optimizer/m/w": np.zeros(2)}
    with pytest.raises(TrainingError, match="params/w"):
        save(tmp_path / "a.npz", arrays, {})
    assert os.listdir(tmp_path) == []
    with open(tmp_path / "a.npz", "w+b") as file:
        checkpoint_format.write(file, arrays, {})
    refuses(tmp_path / "a.npz", "params/w", "NaN")


# --- what can't be loaded ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "damaged"),
        (b"hello", "damaged"),
        (pickle.dumps({"a": 1}), "damaged"),
        (b"PK\x05\x06" + bytes(18), "no manifest"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, word):
    (tmp_path / "a.npz").write_bytes(content)
    refuses(tmp_path / "a.npz", word)


def test_a_missing_file_a_folder_and_a_fifo_are_refused(tmp_path):
    refuses(tmp_path / "none.npz", "no such checkpoint")
    (tmp_path / "folder.npz").mkdir()
    refuses(tmp_path / "folder.npz")
    os.mkfifo(tmp_path / "fifo.npz")
    refuses(tmp_path / "fifo.npz", "regular file")


def test_an_npz_of_somebody_else_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.zeros(3))
    refuses(tmp_path / "a.npz", "no manifest")
    np.savez(tmp_path / "b.npz", w=np.array([{"a": 1}]), allow_pickle=True)
    refuses(tmp_path / "b.npz", "no manifest")


def test_the_forge_makes_sound_files(tmp_path):
    forge(tmp_path / "a.npz", {"w": np.arange(4.0)})
    assert np.array_equal(load(tmp_path / "a.npz").arrays["w"], np.arange(4.0))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (entry(shape=[10**12]), "another size"),
        (entry(shape=[2**62, 2**62]), "another size"),
        (entry(shape=[-4]), "impossible shape"),
        (entry(shape=[True, 4]), "impossible shape"),
        (entry(shape=[1] * 33 + [4]), "impossible shape"),
        (entry(shape="4"), "impossible shape"),
        (entry(shape=[2, 2]), "header"),
        (entry(dtype="<i8"), "header"),
        (entry(dtype="|O"), "isn't allowed"),
        (entry(dtype="<c8"), "isn't allowed"),
        (entry(dtype=["<f8"]), "damaged"),
        (entry(sha256="0" * 64), "sha256"),
        (lambda manifest: manifest["arrays"].update(gone=manifest["arrays"]["w"]), "missing"),
        (lambda manifest: manifest["arrays"].pop("w"), "doesn't list"),
        (lambda manifest: manifest["arrays"].update(w=None), "damaged"),
        (lambda manifest: manifest.update(meta=[]), "lacks"),
        (lambda manifest: manifest.pop("arrays"), "lacks"),
        (lambda manifest: manifest.update(format=4), "newer llmlab"),
        (lambda manifest: manifest.update(format=0), "damaged"),
        (lambda manifest: manifest.update(format="2"), "names no format"),
        (lambda manifest: manifest.update(format=True), "names no format"),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path, change, word):
    forge(tmp_path / "a.npz", {"w": np.arange(4.0)}, change)
    refuses(tmp_path / "a.npz", word)


@pytest.mark.parametrize("name", ["../w", "/w", "a\\w", "x/../../w"])
def test_a_traversing_name_is_refused(tmp_path, name):
    forge(tmp_path / "a.npz", {name: np.arange(4.0)})
    refuses(tmp_path / "a.npz", "impossible name")


@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff", b"{", b"9" * 5000, b"[]"])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path, text):
    data = [npy(np.frombuffer(each, "u1")) for each in (text, hashlib.sha256(text).digest())]
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("manifest.npy", data[0])
        archive.writestr("manifest.sha256.npy", data[1])
    refuses(tmp_path / "a.npz")


def test_bombs_twins_and_strangers_are_refused_before_memory_is_used(tmp_path):
    forge(tmp_path / "bomb.npz", {"w": np.zeros(10**7)}, compression=zipfile.ZIP_DEFLATED)
    forge(tmp_path / "huge.npz", {"w": np.arange(4.0)}, entry(shape=[10**9]))
    forge(tmp_path / "stranger.npz", {"w": np.arange(4.0)}, members={"code.py": b"print()"})
    with zipfile.ZipFile(tmp_path / "twins.npz", "w") as archive:
        archive.writestr("w.npy", npy(np.arange(4.0)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("w.npy", npy(np.arange(4.0)))
    tracemalloc.start()
    try:
        refuses(tmp_path / "bomb.npz", "compressed")
        refuses(tmp_path / "huge.npz", "another size")
        refuses(tmp_path / "stranger.npz", "code.py")
        refuses(tmp_path / "twins.npz", "twice")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# --- older formats -------------------------------------------------------------------------------


def test_format_1_is_read_and_brought_to_todays():
    old = load(FIXTURES / "checkpoint-format-1.npz")
    assert old.meta["cursor"] == {"epoch": 2, "index": 1}
    assert {"index", "epoch"}.isdisjoint(old.meta) and old.meta["step"] == 7
    assert np.array_equal(old.arrays["params/head.bias"], np.array([0.5, -0.25, 0, 1], "f4"))
    with np.load(FIXTURES / "checkpoint-format-1.npz") as stored:
        manifest = json.loads(stored["manifest"].tobytes())
    assert manifest["format"] == 1 and "cursor" not in manifest["meta"]


def test_every_older_format_has_its_step():
    assert sorted(UPGRADES) == list(range(1, checkpoint_format.FORMAT))


def test_an_old_file_that_cant_climb_is_one_error(tmp_path):
    forge(tmp_path / "a.npz", {}, lambda manifest: manifest.update(format=1))
    refuses(tmp_path / "a.npz", "damaged")


# --- fitting what is built -----------------------------------------------------------------------


def test_compare_lists_missing_extra_and_misshapen_together():
    same = {"a": (2, 3), "b": ()}
    compare(same, dict(same))
    expected = {"same": (1,), "wide": (2, 3), "gone": (4,), "scalar": ()}
    found = {"same": (1,), "wide": (3, 2), "extra": (5, 5), "scalar": (1,)}
    with pytest.raises(CheckpointError) as caught:
        compare(expected, found, "x.npz")
    head, *table = str(caught.value).splitlines()
    assert head.startswith("x.npz") and "4 arrays differ" in head
    assert [line.split() for line in table] == [
        ["name", "expected", "found"],
        ["extra", "-", "5x5"],
        ["gone", "4", "-"],
        ["scalar", "scalar", "1"],
        ["wide", "2x3", "3x2"],
    ]


def test_compare_cuts_a_long_table():
    with pytest.raises(CheckpointError, match=r"60 arrays differ(.|\n)*and 20 more"):
        compare({f"w{i}": (i,) for i in range(60)}, {})


# --- the file system -----------------------------------------------------------------------------


def test_symbolic_links_are_never_followed(tmp_path, monkeypatch):
    arrays, meta = state()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target = tmp_path / "a.npz"
    target.symlink_to(victim)
    save(target, arrays, meta)
    assert victim.read_text() == "precious" and not target.is_symlink()
    load(target)
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    beside = tmp_path / ".a.npz.guessed.tmp"
    beside.symlink_to(victim)
    before = target.read_bytes()
    with pytest.raises(ResourceError):
        save(target, arrays, {"step": 4})
    assert victim.read_text() == "precious" and beside.is_symlink()
    assert target.read_bytes() == before


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_refusing_system_leaves_the_old_file(tmp_path, monkeypatch, call):
    arrays, meta = state()
    save(tmp_path / "a.npz", arrays, meta)
    before = (tmp_path / "a.npz").read_bytes()

    def refuse(*args, **kwargs):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{call}", refuse)
        with pytest.raises(ResourceError, match=r"a\.npz.*Input/output error.*check the disk"):
            save(tmp_path / "a.npz", arrays, {"step": 4})
    assert os.listdir(tmp_path) == ["a.npz"]
    assert (tmp_path / "a.npz").read_bytes() == before


def test_an_interrupt_leaves_the_old_file(tmp_path, monkeypatch):
    arrays, meta = state()
    save(tmp_path / "a.npz", arrays, meta)

    def interrupt(handle):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path / "a.npz", arrays, {"step": 4})
    assert os.listdir(tmp_path) == ["a.npz"]
    assert load(tmp_path / "a.npz").meta["step"] == 3


FULL_DISK = """
import resource, signal, sys
import numpy as np
from llmlab.errors import ResourceError
from llmlab.checkpoints import CheckpointFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = CheckpointFolder(sys.argv[1])
rng = np.random.default_rng(0)
checkpoints.save(1, {"params/w": rng.normal(size=1000)}, {})
for limit in (100, 4_096, 20_000, 50_000, 200_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoints.save(2, {f"params/w{i}": rng.normal(size=5_000) for i in range(6)}, {})
    except ResourceError as error:
        print(error)
assert checkpoints.load_latest().meta["step"] == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
checkpoints.save(2, {"params/w": rng.normal(size=30_000)}, {})
"""


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    """A size limit refuses at any point: in a header, in an array, in the directory."""
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    messages = done.stdout.splitlines()
    assert len(messages) == 5
    assert all("step-000002.npz" in line and "File too large" in line for line in messages)
    names = ["latest", "step-000001.npz", "step-000002.npz"]
    assert sorted(os.listdir(tmp_path / "c")) == names
    assert load(tmp_path / "c" / "step-000002.npz").meta["step"] == 2


def test_no_handle_leaks(tmp_path):
    arrays, meta = state()
    save(tmp_path / "a.npz", arrays, meta)
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(5):
        load(tmp_path / "a.npz")
        refuses(tmp_path / "b.npz")
        save(tmp_path / "a.npz", arrays, meta)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before


def test_the_writer_needs_no_copy_of_a_large_array(tmp_path):
    array = {"w": np.zeros(2**22, "u1")}
    tracemalloc.start()
    try:
        save(tmp_path / "a.npz", array, {})
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_write_works_on_any_seekable_file():
    buffer = io.BytesIO()
    checkpoint_format.write(buffer, {"w": np.arange(3)}, {"a": 1})
    size = len(buffer.getvalue())
    form, arrays, meta = checkpoint_format.read(buffer, size)
    assert (form, meta) == (checkpoint_format.FORMAT, {"a": 1})
    assert np.array_equal(arrays["w"], np.arange(3))
