"""Token ids on the disk: damage is noticed, old ones go, several processes may work at once."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llmlab.errors import ConfigError, DataError
from llmlab.text import DATASETS, TOKENIZERS
from llmlab.text import shards as shards_module
from llmlab.text.shards import Shards, checksum, open_shards

BYTE = TOKENIZERS.build("byte", "tokenizer")
TEXT = "some text to read, longer than a shard"
SAID = "damaged, so the text is tokenised again"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shards_module, "SHARD", 16)
    return tmp_path / "cache" / "llmlab" / "tokens"


@pytest.fixture
def build(tmp_path):
    def make(content=TEXT, **arguments):
        path = tmp_path / "a.txt"
        path.write_text(content)
        spec = {"type": "text", "path": str(path), "max_seq_len": 4, "val_fraction": 0.0}
        return DATASETS.build({**spec, **arguments}, "data", tokenizer=BYTE)

    return make


def read(dataset):
    ids = np.empty(dataset.length, np.intp)
    dataset.read(0, ids)
    return BYTE.decode(ids.tolist())


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edit(change, seal=True):
    """Return a damage that changes the index; `seal` makes its hash right again."""

    def act(folder):
        sealed = json.loads((folder / "index.json").read_text())
        index = json.loads(sealed["index"])
        index = change(index) or index
        sealed["index"] = json.dumps(index)
        if seal:
            sealed["blake2b"] = checksum(sealed["index"].encode())
        (folder / "index.json").write_text(json.dumps(sealed))

    return act


def text_of_index(text):
    return lambda folder: (folder / "index.json").write_text(text)


def pipe(name):
    def act(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return act


SECOND = "00001.bin"
DAMAGES = {
    "zeros": lambda f: (f / SECOND).write_bytes(bytes((f / SECOND).stat().st_size)),
    "a bit": lambda f: flip(f / SECOND, 3),
    "first bit": lambda f: flip(f / "00000.bin", 0),
    "last bit": lambda f: flip(f / "00002.bin", -1),
    "documents": lambda f: flip(f / "documents.bin", -8),
    "short": lambda f: os.truncate(f / SECOND, 5),
    "long": lambda f: (f / SECOND).write_bytes((f / SECOND).read_bytes() + b"ab"),
    "empty": lambda f: os.truncate(f / SECOND, 0),
    "gone": lambda f: (f / SECOND).unlink(),
    "last gone": lambda f: (f / "00002.bin").unlink(),
    "more": lambda f: (f / "00003.bin").write_bytes(b"ab"),
    "swapped": lambda f: (f / SECOND).write_bytes((f / "00000.bin").read_bytes()),
    "a folder": lambda f: ((f / SECOND).unlink(), (f / SECOND).mkdir()),
    "a pipe": pipe(SECOND),
    "a pipe for an index": pipe("index.json"),
    "no index": lambda f: (f / "index.json").unlink(),
    "no documents": lambda f: (f / "documents.bin").unlink(),
    "index: a bit": lambda f: flip(f / "index.json", 30),
    "index: not JSON": text_of_index("{"),
    "index: not UTF-8": lambda f: (f / "index.json").write_bytes(b"\xff{}"),
    "index: a list": text_of_index("[]"),
    "index: null": text_of_index("null"),
    "index: nested": text_of_index("[" * 100_000),
    "index: numbers": text_of_index('{"index": 3, "blake2b": 4}'),
    "index: unsealed": edit(lambda i: i.update(dtype="f2"), seal=False),
    "index: counts": edit(lambda i: i["about"].update(unknown=7), seal=False),
    "dtype f2": edit(lambda i: i.update(dtype="f2")),
    "dtype i8": edit(lambda i: i.update(dtype="i8")),
    "dtype a list": edit(lambda i: i.update(dtype=["u2"])),
    "shards: a number": edit(lambda i: i.update(shards=3)),
    "shards: one less": edit(lambda i: i["shards"].pop()),
    "shards: text": edit(lambda i: i.update(shards=["00", "11", "22"])),
    "shards: fractions": edit(lambda i: i["shards"][0].__setitem__(0, 16.5)),
    "shards: negative": edit(lambda i: i["shards"][0].__setitem__(0, -16)),
    "shards: huge": edit(lambda i: i["shards"][0].__setitem__(0, 10**400)),
    "inner: a list": edit(lambda i: [i]),
    "another name": edit(lambda i: i.update(name="0" * 32)),
}


@pytest.mark.every_day(19)
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_tokenised_again_and_said_once(build, cache, caplog, damage):
    before = build()
    assert read(before) == TEXT and not caplog.text
    (folder,) = cache.iterdir()
    DAMAGES[damage](folder)
    assert read(build()) == TEXT
    assert caplog.text.count(SAID) == 1
    caplog.clear()
    again = build()
    assert read(again) == TEXT and not caplog.text and again.sha256 == before.sha256
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_every_bit_counts(build, cache):
    build()
    (folder,) = cache.iterdir()
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 1 << at % 8
            path.write_bytes(changed)
            assert open_shards(folder) is None, (path.name, at)
        path.write_bytes(data)
    assert isinstance(open_shards(folder), Shards)


def test_a_folder_under_another_name_is_not_believed(build, cache):
    build()
    (one,) = cache.iterdir()
    build("another text")
    (two,) = set(cache.iterdir()) - {one}
    one.rename(cache / "x")
    two.rename(one)
    assert open_shards(one) is None and read(build()) == TEXT


def test_what_is_in_the_way_is_removed(build, cache):
    build()
    (folder,) = cache.iterdir()
    for make in (
        lambda: folder.write_text("a file"),
        lambda: folder.symlink_to("nowhere"),
        lambda: os.mkfifo(folder),
    ):
        for path in [*folder.iterdir(), folder] if folder.is_dir() else [folder]:
            path.rmdir() if path.is_dir() else path.unlink()
        make()
        assert read(build()) == TEXT


def test_every_file_is_synced_before_the_folder_has_its_name(build, monkeypatch):
    told, fsync, rename = [], os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda handle: told.append("sync") or fsync(handle))
    monkeypatch.setattr(Path, "rename", lambda a, b: told.append("rename") or rename(a, b))
    build()
    # Three shards, the documents, the index and the folder; then the name; then its folder.
    assert told == ["sync"] * 6 + ["rename", "sync"]


def test_checking_is_cheap(tmp_path):
    """100 MB take well under a second; nothing is asserted closely, since machines are busy."""
    data = np.zeros(50_000_000, np.uint16)
    began = time.process_time()
    checksum(data)
    assert time.process_time() - began < 1


# Room


def used(at):
    """Set when each folder was used last."""
    for folder, when in at.items():
        os.utime(folder, (when, when))


def test_what_was_not_used_for_longest_goes(build, cache):
    folders = []
    for n in range(4):
        build(f"{TEXT} {n}", cache_gb=1)
        folders += set(cache.iterdir()) - set(folders)
    used({folder: 1000 + n for n, folder in enumerate(folders)})
    build(f"{TEXT} 0")  # the oldest is used again
    mine = cache / "settings"
    mine.mkdir()
    (mine / "file").write_bytes(bytes(10_000))
    size = sum(path.stat().st_size for path in folders[0].iterdir())
    build(f"{TEXT} 4", cache_gb=3.5 * size / 1e9)
    left = set(cache.iterdir())
    assert mine in left and {folders[0], folders[3]} < left
    assert folders[1] not in left and folders[2] not in left and len(left) == 4


def test_what_is_larger_than_the_limit_is_kept_alone(build, cache):
    build("another text")
    assert read(build(cache_gb=0)) == TEXT
    assert len(list(cache.iterdir())) == 1
    assert read(build(cache_gb=0)) == TEXT


def test_a_run_goes_on_when_its_tokens_are_pruned(build, cache):
    dataset = build()
    build("another text", cache_gb=0)
    assert len(list(cache.iterdir())) == 1 and read(dataset) == TEXT


@pytest.mark.parametrize("limit", [-1, float("nan"), True, "many"])
def test_the_limit_is_a_number(build, limit):
    with pytest.raises(ConfigError, match=r"data\.cache_gb=.*expected a number from 0"):
        build(cache_gb=limit)


WORK = """
import sys
from llmlab.text import DATASETS, TOKENIZERS
for n in range(12):
    spec = {"type": "text", "path": f"text-{n % 3}.txt", "max_seq_len": 4, "val_fraction": 0.0,
            "cache": "tokens", "cache_gb": 0 if n % 2 else 1}
    dataset = DATASETS.build(spec, "data", tokenizer=TOKENIZERS.build("byte", "tokenizer")).once()
    text = [i for b in dataset.batches(1, 0, 0) for i in b.inputs[0][b.weights[0] > 0].tolist()]
    assert bytes(text) == open(f"text-{n % 3}.txt", "rb").read()[:-1], n
"""


@pytest.mark.slow
def test_several_processes_at_once(tmp_path):
    """They write, read and prune the same folders, and all see the right text."""
    for n in range(3):
        (tmp_path / f"text-{n}.txt").write_text(f"text {n} " * 300)
    command = [sys.executable, "-c", WORK]
    workers = [
        subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for worker in workers:
        _, told = worker.communicate(timeout=120)
        assert worker.returncode == 0, told


def test_ids_that_the_vocabulary_lacks_are_refused(build, monkeypatch):
    dataset = build()
    monkeypatch.setattr(dataset, "_vocab_size", 50)
    with pytest.raises(DataError, match=r"is outside .* or damaged since"):
        next(dataset.batches(4, 0, 0))
