"""Windows of text that lies on the disk."""

import gzip
import json
import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.errors import ConfigError, DataError, ResourceError
from llmlab.text import DATASETS, TOKENIZERS
from llmlab.text import shards as shards_module
from llmlab.text.datasets.orders import drawn, shuffled
from llmlab.text.datasets.windows import Windows
from llmlab.text.files import TextFile
from llmlab.text.reading import source_texts
from llmlab.text.shards import Shards

BYTE = TOKENIZERS.build("byte", "tokenizer")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "llmlab" / "tokens"


@pytest.fixture
def build(tmp_path):
    def make(content="", tokenizer=BYTE, name="a.txt", type="text", **arguments):
        path = tmp_path / name
        if isinstance(content, dict):
            for key, text in content.items():
                (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / key).write_bytes(text.encode())
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        spec = {"type": type, "path": str(path), "max_seq_len": 4, "val_fraction": 0.0, **arguments}
        return DATASETS.build(spec, "data", tokenizer=tokenizer)

    return make


def rows(dataset, size=3, seed=0, epoch=0, start=0):
    """Return inputs and targets of each window as text, checking the padding."""
    found = []
    for batch in dataset.batches(size, seed, epoch, start):
        for inputs, targets, weights in zip(
            batch.inputs, batch.targets, batch.weights, strict=True
        ):
            n = int(np.flatnonzero(weights)[-1]) + 1
            assert not weights[n:].any() and not inputs[n:].any() and not targets[n:].any()
            found.append((BYTE.decode(inputs[:n], False), BYTE.decode(targets[:n], False)))
    return found


def tokens(n, T, **options):
    shards = Shards([np.arange(n, dtype=np.uint16)], np.array([0, n]))
    return Windows(shards, "test", "key", 2**16, T, **options)


def test_sequential_windows(build):
    dataset = build("abcdefghijk", windows="sequential")
    assert rows(dataset) == [("abcd", "bcde"), ("efgh", "fghi"), ("ij", "jk")]
    assert (len(dataset), dataset.num_batches(2)) == (3, 2) and not dataset.shuffle
    batch = next(dataset.batches(3, 0, 0))
    assert batch.inputs.dtype == batch.targets.dtype == np.intp and batch.tokens == 10
    assert batch.weights.dtype == np.float32 and batch.segments is None
    assert dataset.report["tokens"] == 10 and dataset.report["texts"] == 1


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 9), st.integers(0, 3))
def test_shuffled_is_every_target_once_and_can_be_entered_anywhere(n, T, size, epoch):
    dataset = tokens(n, T, windows="shuffled")
    whole = list(dataset.batches(size, 5, epoch))
    assert len(whole) == dataset.num_batches(size)
    targets = np.concatenate([b.targets[b.weights > 0] for b in whole])
    assert sorted(targets.tolist()) == list(range(1, n))
    for start in range(len(whole) + 2):
        resumed = list(dataset.batches(size, 5, epoch, start))
        assert len(resumed) == max(0, len(whole) - start)
        for one, other in zip(resumed, whole[start:], strict=True):
            assert (one.inputs == other.inputs).all() and (one.targets == other.targets).all()


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 9), st.integers(0, 3))
def test_random_windows_are_of_full_length_and_can_be_entered_anywhere(n, T, size, epoch):
    dataset = tokens(n, T)
    whole = list(dataset.batches(size, 5, epoch))
    assert len(whole) == dataset.num_batches(size) and sum(len(b.inputs) for b in whole) == len(
        dataset
    )
    for batch in whole:
        assert batch.inputs.shape[1] == min(T, n - 1) and (batch.weights == 1).all()
        assert (batch.targets == batch.inputs + 1).all()
    for start in range(len(whole)):
        first = next(dataset.batches(size, 5, epoch, start))
        assert (first.inputs == whole[start].inputs).all()


def test_every_place_is_drawn_equally_often():
    starts = drawn(20, 0, 0)(np.arange(20_000))
    counts = np.bincount(starts, minlength=20)
    assert len(counts) == 20 and abs(counts - 1000).max() < 150
    # In any batch size, and from anywhere.
    assert (drawn(20, 0, 0)(np.arange(4000, 4200)) == starts[4000:4200]).all()


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 1000])
def test_permutation(count):
    order = shuffled(count, 1, 2)(np.arange(count))
    assert sorted(order.tolist()) == list(range(count))
    if count > 100:
        assert (order != shuffled(count, 1, 3)(np.arange(count))).mean() > 0.9
        assert (order != shuffled(count, 2, 2)(np.arange(count))).mean() > 0.9
        # Neighbours in the text aren't neighbours in the order.
        assert np.corrcoef(order[:-1], order[1:])[0, 1] < 0.1


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 14))
def test_sliding_windows_count_each_target_once(n, T, stride):
    dataset = tokens(n, T, windows="random", stride=stride).once()
    targets, contexts = [], []
    for batch in dataset.batches(3, 0, 0):
        places = np.broadcast_to(np.arange(batch.targets.shape[1]) + 1, batch.targets.shape)
        targets += batch.targets[batch.weights > 0].tolist()
        contexts += places[batch.weights > 0].tolist()
    assert targets == list(range(1, n))
    wanted = [min(target, max(1, T - stride + 1)) for target in targets]
    assert all(context >= least for context, least in zip(contexts, wanted, strict=True))


def test_split_by_position(build):
    text = "".join(chr(97 + i % 26) for i in range(105))
    training, validation = build(text, windows="random").split(0.1, seed=3)
    assert (training.length, validation.length) == (int(105 * 0.9), 105 - int(105 * 0.9))
    assert "".join(targets for _, targets in rows(validation)) == text[95:]
    assert rows(validation)[0][0][0] == text[94] and validation.windows == "sequential"
    starts = {inputs for epoch in range(30) for inputs, _ in rows(training, epoch=epoch)}
    assert starts == {text[i : i + 4] for i in range(26)}
    assert training.sha256 != validation.sha256 != build(text).sha256


def test_split_by_document(build, tmp_path):
    letters = "abcdefgh"
    files = {f"texts/{x}.txt": x * 10 for x in letters} | {"texts/more/i.txt": "i" * 10}
    files |= {"texts/not.md": "zzz"}
    dataset = build(files, name="texts")
    assert dataset.report["texts"] == 9 and dataset.length == 9 * 11
    training, validation = dataset.split(0.25, seed=1)
    assert (training.report["texts"], validation.report["texts"]) == (7, 2)
    seen = []
    for part in (training, validation):
        text = "".join(targets for _, targets in rows(part.once()))
        seen.append(set(text.replace("</s>", "")))
        assert text.count("</s>") == part.report["texts"]
    assert seen[0].isdisjoint(seen[1]) and seen[0] | seen[1] == set("abcdefghi")
    again = dataset.split(0.25, seed=1)[1]
    assert again.sha256 == validation.sha256 != dataset.split(0.25, seed=2)[1].sha256


def test_globs_gzip_and_lists_of_texts(build, tmp_path):
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"zipped"))
    (tmp_path / "c.jsonl").write_text('"one"\n{"text": "two"}\n')
    dataset = build("plain", name="a.txt", path=str(tmp_path / "?.*"), windows="sequential")
    text = rows(dataset, size=9)[0][0][:1] + "".join(targets for _, targets in rows(dataset))
    assert text == "plain</s>zipped</s>one</s>two</s>" and dataset.report["texts"] == 4


def test_attention_inside_documents(build):
    files = {"t/a.txt": "ab", "t/b.txt": "c", "t/c.txt": "def"}
    dataset = build(files, name="t", isolate=True, max_seq_len=8, windows="sequential")
    batch = next(dataset.batches(2, 0, 0))
    assert BYTE.decode(batch.inputs[0], False) == "ab</s>c</s>def"
    assert batch.segments.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    short = build(files, name="t", isolate=True, max_seq_len=5, windows="sequential")
    batch = next(short.batches(2, 0, 0))
    assert batch.segments.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, -1, -1]]


# The cache


def folders(cache):
    return sorted(path for path in cache.iterdir())


def test_tokenised_once(build, cache, monkeypatch):
    dataset = build("some text to read")
    (folder,) = folders(cache)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(before) == {"index.json", "documents.bin", "00000.bin"}
    monkeypatch.setattr(type(BYTE), "encode_array", None)  # would raise if called
    again = build("some text to read", name="elsewhere.txt")
    assert again.sha256 == dataset.sha256 and rows(again) == rows(dataset)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_cache_knows_text_tokenizer_and_options_apart(build, cache):
    hashes = {build("some text").sha256, build("some texT").sha256}
    other = TOKENIZERS.build("char", "tokenizer").train(["some text"])
    hashes |= {build("some text", tokenizer=other).sha256}
    hashes |= {build("some text", invalid_utf8="replace").sha256}
    assert len(hashes) == len(folders(cache)) == 4
    hashes |= {build("some text", max_seq_len=3).sha256}
    hashes |= {build("some text", windows="shuffled").sha256}
    assert len(hashes) == 6 and len(folders(cache)) == 4


def test_another_cache(build, cache, tmp_path):
    build("some text", cache=str(tmp_path / "mine"))
    assert len(folders(tmp_path / "mine")) == 1 and not cache.exists()


def test_an_interrupted_run_leaves_nothing(build, cache, monkeypatch):
    def stop(self, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(BYTE), "encode_array", stop)
    with pytest.raises(KeyboardInterrupt):
        build("some text to read")
    assert folders(cache) == []


def test_a_cache_that_cannot_be_written(build, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"file: token ids can't be kept.*cache=FOLDER"):
        build("some text", cache=str(tmp_path / "file"))


def test_several_shards(build, monkeypatch):
    monkeypatch.setattr(shards_module, "SHARD", 5)
    text = "a text that is longer than a few shards"
    dataset = build(text, windows="sequential", max_seq_len=13)
    assert "".join(targets for _, targets in rows(dataset)) == text[1:]


def test_notices_come_every_time(build, caplog):
    for _ in range(2):
        caplog.clear()
        dataset = build(b"\xef\xbb\xbfa\r\nb\x00c", windows="sequential")
        assert "byte order mark" in caplog.text and "1 carriage" in caplog.text
        assert "1 control" in caplog.text
    assert rows(dataset) == [("a\nb ", "\nb c")]


def test_notices_of_lists_come_every_time(build, caplog):
    for _ in range(2):
        caplog.clear()
        build(b'\xef\xbb\xbf"a\x7fb"\r\n', name="a.jsonl")
        assert "byte order mark" in caplog.text and "1 carriage" in caplog.text
        assert caplog.text.count("1 control") == 1


def test_the_bar_moves_while_a_list_is_tokenised(tmp_path):
    path, taken = tmp_path / "a.jsonl", []
    path.write_text('"a"\n' * 5)
    assert len(list(source_texts(TextFile(path, watch=taken.append)))) == 5
    assert sum(taken) == path.stat().st_size


def test_unknown_tokens_are_told_every_time(build, caplog):
    few = TOKENIZERS.build("char", "tokenizer").train(["ab"])
    for _ in range(2):
        caplog.clear()
        build("abxa", few)
        assert "1 of 4 tokens are of text that the vocabulary lacks" in caplog.text
    caplog.clear()
    build("abba", few)
    assert not caplog.text


def test_what_killed_writers_left_is_removed_when_it_is_old(build, cache):
    build("some text")
    (whole,) = folders(cache)
    left = [cache / f".{digit * 32}-{digit * 8}" for digit in "ab"]
    other = cache / ".my-settings"
    for folder in (*left, other):
        folder.mkdir()
        (folder / "00000.bin").write_bytes(b"abc")
    for folder in (left[0], other):
        os.utime(folder, (0, 0))
    build("another text")
    assert whole.is_dir() and other.is_dir()
    assert not left[0].exists() and left[1].exists()


def test_bpe_gives_what_it_gives_for_the_whole_text(build, monkeypatch):
    pytest.importorskip("tokenizers")
    words = ["the cat", "sat,\n\n  on", "1,000 mats!", "don't you", "\tthink  so?", "naïve 漢字"]
    rng = np.random.default_rng(0)
    text = " ".join(words[i] for i in rng.integers(0, len(words), 2000))
    bpe = TOKENIZERS.build({"type": "bpe", "vocab_size": 400}, "tokenizer").train([text])
    monkeypatch.setattr("llmlab.text.files.BLOCK", 1000)
    dataset = build(text, tokenizer=bpe, windows="sequential")
    first = next(dataset.batches(1, 0, 0)).inputs[0, :1].tolist()
    targets = [batch.targets[batch.weights > 0] for batch in dataset.batches(64, 0, 0)]
    assert first + np.concatenate(targets).tolist() == bpe.encode(text)


# Bad input


@pytest.mark.parametrize("content", ["", "a"])
def test_too_short(build, content):
    with pytest.raises(DataError, match=rf"a\.txt: {len(content)} tokens; at least 2"):
        build(content)


@pytest.mark.parametrize("fraction, left", [(0.04, (19, 1)), (0.96, (0, 20)), (0.9, (1, 19))])
def test_too_short_to_split(build, fraction, left):
    message = rf"of 20 tokens leaves {left[0]} for training and {left[1]} for validation"
    with pytest.raises(DataError, match=message):
        build("a" * 20).split(fraction, 0)


def test_invalid_utf8_has_a_place(build):
    with pytest.raises(DataError, match=r"a\.txt:3: byte 5 \(0xff\) is not UTF-8"):
        build(b"ab\nc\n\xff")
    replaced = build(b"ab\xff", invalid_utf8="replace", max_seq_len=9, windows="sequential")
    assert rows(replaced) == [("ab\ufffd", "b\ufffd")]


def test_damaged_gzip(build):
    whole = gzip.compress(b"text " * 1000)
    for content in (whole[:40], b"no gzip"):
        with pytest.raises(DataError, match=r"a\.txt\.gz: (damaged gzip|cannot be read)"):
            build(content, name="a.txt.gz")


def test_missing_files(build, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        build("", path=str(tmp_path / "b.txt"))
    with pytest.raises(DataError, match=r"\*\.md: no file matches"):
        build("", path=str(tmp_path / "*.md"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: the folder holds no \.txt"):
        build("", path=str(tmp_path / "empty"))


@pytest.mark.parametrize(
    "argument",
    [
        {"max_seq_len": 0},
        {"windows": "all"},
        {"val_fraction": 1},
        {"stride": 0},
        {"stride": 1.5},
        {"isolate": "yes"},
        {"invalid_utf8": "ignore"},
    ],
)
def test_wrong_options(build, argument):
    ((key, value),) = argument.items()
    with pytest.raises(ConfigError) as caught:
        build("some text", **argument)
    assert str(caught.value).startswith(f"data.{key}={value!r}: expected ")


# Ids made elsewhere


@pytest.mark.parametrize("form", ["npy", "bin"])
def test_tokens(tmp_path, form):
    path = tmp_path / f"ids.{form}"
    ids = np.arange(30, dtype=np.uint16)
    np.save(path, ids) if form == "npy" else ids.tofile(path)
    spec = {"type": "tokens", "path": str(path), "max_seq_len": 8, "windows": "sequential"}
    dataset = DATASETS.build(spec, "data", tokenizer=BYTE)
    assert [b.targets[b.weights > 0].tolist() for b in dataset.batches(9, 0, 0)] == [
        list(range(1, 30))
    ]


@pytest.mark.parametrize(
    "ids, message",
    [
        (np.array([1, 2, 257], np.uint16), r"token id 257 at position 2 .* vocabulary of 257"),
        (np.array([1, -1, 3], np.int64), r"token id -1 at position 1 is outside"),
        (np.array([[1, 2]], np.int64), r"expected one row of whole numbers"),
        (np.array([1.0, 2.0]), r"expected one row of whole numbers"),
        (np.array([1], np.int64), r"1 tokens; at least 2"),
        (np.array([], np.uint16), r"0 tokens; at least 2"),
    ],
)
def test_ids_that_cannot_be(tmp_path, ids, message):
    np.save(tmp_path / "ids.npy", ids)
    spec = {"type": "tokens", "path": str(tmp_path / "ids.npy"), "max_seq_len": 8}
    with pytest.raises(DataError, match=message):
        DATASETS.build(spec, "data", tokenizer=BYTE)


@pytest.mark.parametrize("written", ["<u2", "<u4", "<u8", "<i4", "<i8"])
@pytest.mark.parametrize("read", ["uint16", "uint32", "uint64", "int32", "int64"])
def test_numbers_of_another_type_are_refused_with_the_one_that_fits(tmp_path, written, read):
    path, ids = tmp_path / "ids.bin", np.arange(1, 101)
    ids.astype(written).tofile(path)
    spec = {"type": "tokens", "path": str(path), "max_seq_len": 8, "dtype": read}
    if np.dtype(written).itemsize == np.dtype(read).itemsize:
        dataset = DATASETS.build(spec, "data.tune", tokenizer=BYTE).once()
        assert next(dataset.batches(1, 0, 0)).inputs[0].tolist() == list(range(1, 9))
        return
    fitting = np.dtype(written.replace("i", "u")).name
    with pytest.raises(DataError) as error:
        DATASETS.build(spec, "data.tune", tokenizer=BYTE)
    assert f"read as data.tune.dtype={fitting}; set that" in str(error.value)


def test_numbers_whose_type_cannot_be(tmp_path):
    path = tmp_path / "ids.bin"
    spec = {"type": "tokens", "path": str(path), "max_seq_len": 8}
    np.arange(1, 101).astype(">u2").tofile(path)
    with pytest.raises(DataError, match=r"big-endian uint16.*astype\('<u2'\)"):
        DATASETS.build(spec, "data.tune", tokenizer=BYTE)
    path.write_bytes(b"\1\0\2\0\3")
    with pytest.raises(DataError, match=r"5 bytes are no multiple of the 2 of one uint16; it is"):
        DATASETS.build(spec, "data.tune", tokenizer=BYTE)
    np.array([1, 2, 3, 300], "<u2").tofile(path)  # of another tokenizer, not of another type
    with pytest.raises(DataError, match=r"token id 300 at position 3"):
        DATASETS.build(spec, "data.tune", tokenizer=BYTE)
    np.zeros(100, "<u2").tofile(path)
    assert len(DATASETS.build(spec, "data.tune", tokenizer=BYTE)) > 0


def test_no_file_of_ids(tmp_path):
    (tmp_path / "ids.npy").write_bytes(b"\x93NUMPY junk")
    (tmp_path / "odd.bin").write_bytes(b"abc")
    for name in ("empty.npy", "empty.bin"):
        (tmp_path / name).write_bytes(b"")
    np.savez(tmp_path / "several.npz", ids=np.arange(9))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 junk")
    for name in ("ids.npy", "odd.bin", "empty.npy", "empty.bin", "several.npy", "zip.npy"):
        spec = {"type": "tokens", "path": str(tmp_path / name), "max_seq_len": 8}
        with pytest.raises(DataError, match=f"{name}: not a file of token ids"):
            DATASETS.build(spec, "data", tokenizer=BYTE)


def test_report_is_json(build):
    dataset = build("some text")
    assert json.loads(json.dumps(dataset.report)) == dataset.report
    assert next(iter(dataset.samples()))[0] == tuple(b"some ")
    assert all(a[0][-1] == b[0][0] for a, b in pairwise(dataset.samples()))
