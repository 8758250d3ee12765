"""A tokenizer.json that somebody else wrote: it can't hang, swell or break the process."""

import json
import os
import time

import pytest

from llmlab.errors import CheckpointError, DataError
from llmlab.text import TOKENIZERS, Tokenizer
from llmlab.text import foreign_tokenizer as foreign
from llmlab.text.long_words import LONGEST, cut_long_words

pytest.importorskip("tokenizers")

GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def plain():
    bpe = TOKENIZERS.build({"type": "bpe", "vocab_size": 300}, "tokenizer")
    return bpe.train(["some text to learn from, " * 9]).arguments()["json"]


def split(pattern):
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def replace(content, **pattern):
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*parts, key="normalizers"):
    return {"type": "Sequence", key: list(parts)}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
LLAMA = sequence({"type": "Prepend", "prepend": "▁"}, replace("▁", String=" "))
HOSTILE = {
    "pattern": ({"pre_tokenizer": split("(a+)+$")}, "broke down"),
    "pattern of words": ({"pre_tokenizer": split(r"(\w+\s?)+$")}, "broke down"),
    "pattern of a normalizer": ({"normalizer": replace("b", Regex="(a+)+$")}, "broke down"),
    "tenfold": ({"normalizer": sequence(*[replace("a" * 10, String="a")] * 9)}, "1,000,000,000"),
    "tenfold, nested": (
        {"normalizer": sequence(sequence(*[replace("a" * 10, String="a")] * 5), LLAMA)},
        "300,000 times",
    ),
    "of nothing": ({"normalizer": replace("a" * 100, Regex="")}, "101 times"),
    "decoder": ({"decoder": sequence(replace("a" * 999, String="a"), key="decoders")}, "999 times"),
}


@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_has_no_bounds_is_refused(plain, tmp_path, capfd, hostile):
    change, said = HOSTILE[hostile]
    content = {**plain, **change}
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=said) as error:
        Tokenizer.from_dict({"type": "bpe", "json": content})
    assert "\n" not in str(error.value)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=rf"tokenizer\.json: json: .*{said}"):
        TOKENIZERS.build({"type": "pretrained", "path": str(path)}, "tokenizer")
    assert time.monotonic() - began < 60  # of a minute and more without the bounds
    assert "panicked" not in "".join(capfd.readouterr())


@pytest.mark.every_day(2)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"normalizer": LLAMA},
        {"normalizer": {"type": "NFKD"}},
        {"pre_tokenizer": sequence(split(GPT4), BYTES, key="pretokenizers")},
    ],
)
def test_what_is_in_use_works(plain, change):
    tokenizer = Tokenizer.from_dict({"type": "bpe", "json": {**plain, **change}})
    assert tokenizer.decode(tokenizer.encode("some text")).replace("▁", " ").strip() == "some text"


def test_a_plain_tokenizer_needs_no_trial(plain, monkeypatch):
    monkeypatch.setattr(foreign.subprocess, "run", None)
    assert Tokenizer.from_dict({"type": "bpe", "json": plain}).encode("text")


def test_padding_and_truncation_are_not_followed(plain):
    padding = {
        "strategy": {"Fixed": 10**10},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "a",
    }
    truncation = {
        "direction": "Right",
        "max_length": 1,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    content = {**plain, "padding": padding, "truncation": truncation}
    tokenizer = Tokenizer.from_dict({"type": "bpe", "json": content})
    assert tokenizer.encode("some text") == Tokenizer.from_dict(
        {"type": "bpe", "json": plain}
    ).encode("some text")


def test_a_breakdown_later_is_one_line(plain, monkeypatch, capfd):
    """On a text that the trial hasn't: the library's own traceback isn't shown."""
    monkeypatch.setattr("llmlab.text.tokenizers.bpe.try_out", lambda content, text: None)
    content = {**plain, "pre_tokenizer": split("(q+)+$")}
    tokenizer = Tokenizer.from_dict({"type": "bpe", "json": content})
    assert tokenizer.encode("some text")
    with pytest.raises(CheckpointError, match="the tokenizer broke down on this text"):
        tokenizer.encode("q" * 40 + "!")
    assert "panicked" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_a_trial_that_ends_the_process_or_never_ends(plain, monkeypatch):
    content = {**plain, "normalizer": {"type": "NFC"}}
    for code in ("import os; os.abort()", "bytearray(2**40)", "import sys; sys.exit(0)"):
        monkeypatch.setattr(foreign, "_TRIAL", code)
        with pytest.raises(CheckpointError, match="broke down"):
            foreign.try_out(content, json.dumps(content))
    monkeypatch.setattr(foreign, "_TRIAL", "while True: pass")
    monkeypatch.setattr(foreign, "_SECONDS", 0.2)
    with pytest.raises(CheckpointError, match="took more than"):
        foreign.try_out(content, json.dumps(content))


@pytest.mark.every_day(2)
@pytest.mark.parametrize("kind", ["fifo", "device", "link", "folder", "large"])
def test_only_a_regular_file_is_read(tmp_path, monkeypatch, kind):
    path = tmp_path / "tokenizer.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(foreign.MAX_FILE + 1)
    where = "/dev/zero" if kind == "device" else str(path)
    with pytest.raises(DataError, match=r"cannot be read: (not a regular|it is a|it is larger)"):
        TOKENIZERS.build({"type": "pretrained", "path": where}, "tokenizer")


# Words of no language


def test_long_words_are_cut_to_learn_from(caplog):
    began = time.process_time()
    bpe = TOKENIZERS.build({"type": "bpe", "vocab_size": 400}, "tokenizer")
    text = "some text " + "abcdefghij" * 20_000 + " and more text"
    tokenizer = bpe.train([text, "x" * 5000])
    assert time.process_time() - began < 10  # half a minute without
    assert caplog.text.count("words of more than 1,000 characters") <= 1
    assert "words of more than 1000 characters: cut at 205 places" in caplog.text
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_cutting_loses_nothing():
    for text in (
        "",
        "a b",
        "a" * LONGEST,
        " " * 3456,
        "ab " * 900 + "x" * 2345 + "\n" * 1001 + "y",
    ):
        parts = list(cut_long_words([text]))
        assert "".join(parts) == text
        longest = max((len(word) for part in parts for word in part.split()), default=0)
        assert longest <= LONGEST
    normal = ["some text", "word " * 900]
    assert list(cut_long_words(normal)) == normal
