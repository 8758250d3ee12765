import json
from dataclasses import FrozenInstanceError
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.errors import ConfigError, DataError
from llmlab.text import DATASETS, TOKENIZERS, Dataset
from llmlab.text.datasets.samples import Samples
from llmlab.text.tokenizers.base import Tokenizer

LINES = ["a b c", "d", "a b c d e f g h", "b d f </s>", "h g"]
CHATS = ["User: a b Assistant: c", "User: d Assistant: e f g </s>"]
TOKENIZER = TOKENIZERS.build("word", "tokenizer").train(["a b c d e f g h User: Assistant:"])


@pytest.fixture
def build(tmp_path):
    def make(type, texts, tokenizer: Tokenizer = TOKENIZER, **arguments):
        path = tmp_path / "texts.json"
        path.write_text(json.dumps(texts))
        spec = {"type": type, "path": str(path), "max_seq_len": 80, **arguments}
        return DATASETS.build(spec, "data", tokenizer=tokenizer)

    return make


def rows(batches):
    """Return (inputs, targets) of each row, without padding, checking the padding."""
    found = []
    for batch in batches:
        for inputs, targets, weights in zip(
            batch.inputs, batch.targets, batch.weights, strict=True
        ):
            length = int(np.count_nonzero(weights))
            assert (
                weights[:length].all() and not targets[length:].any() and not inputs[length:].any()
            )
            found.append((tuple(inputs[:length]), tuple(targets[:length])))
    return found


def pairs(dataset):
    return [(user.content, assistant.content) for user, assistant in dataset.chats]


def words(dataset):
    return [" ".join(TOKENIZER.token(id) for id in ids) for ids, _ in dataset.samples()]


def test_lines(build):
    dataset = build("lines", LINES, shuffle=False)
    assert isinstance(dataset, Dataset) and len(dataset) == 5 and dataset.chats == []
    assert words(dataset)[:2] == ["a b c </s>", "d </s>"]
    assert words(dataset)[3] == "b d f </s>"
    expected = [(ids[:-1], ids[1:]) for ids, _ in dataset.samples()]
    assert rows(dataset.batches(2, seed=0, epoch=1)) == expected


def test_batch_arrays(build):
    batch = next(build("lines", LINES, shuffle=False).batches(3, seed=0, epoch=1))
    assert batch.inputs.shape == batch.targets.shape == batch.weights.shape == (3, 8)
    assert batch.inputs.dtype == batch.targets.dtype == np.intp
    assert batch.weights.dtype == np.float32
    assert all(x.flags.c_contiguous for x in (batch.inputs, batch.targets, batch.weights))
    assert batch.tokens == 3 + 1 + 8 and isinstance(batch.tokens, float)
    assert batch.segments is None and batch.positions is None
    with pytest.raises(FrozenInstanceError):
        batch.inputs = batch.targets


def test_batches_are_fresh(build):
    dataset = build("lines", LINES)
    before = rows(dataset.batches(2, 0, 1))
    for batch in dataset.batches(2, 0, 1):
        batch.inputs[:] = batch.targets[:] = 7
        batch.weights[:] = 0
    assert rows(dataset.batches(2, 0, 1)) == before


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=12),
    st.integers(1, 13),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_an_epoch_is_every_sample_once_and_can_be_entered_anywhere(lengths, size, seed, epoch):
    texts = [([n] * length, [1.0] * length) for n, length in enumerate(lengths, 1)]
    dataset = Samples(texts, "test", max_seq_len=80)
    whole = [rows([batch]) for batch in dataset.batches(size, seed, epoch)]
    assert len(whole) == dataset.num_batches(size)
    assert sorted(chain(*whole)) == [((n,) * (k - 1),) * 2 for n, k in enumerate(lengths, 1)]
    for start in range(len(whole) + 2):
        resumed = [rows([batch]) for batch in dataset.batches(size, seed, epoch, start)]
        assert resumed == whole[start:]


def test_order_derives_from_seed_and_epoch_alone(build):
    texts = [" ".join("abcdefgh"[i % 8] for i in range(n)) for n in range(1, 30)]
    dataset = build("lines", texts)
    first = rows(dataset.batches(4, seed=1, epoch=1))
    assert rows(dataset.batches(7, seed=1, epoch=1)) == first
    assert rows(dataset.batches(4, seed=1, epoch=2)) != first
    assert rows(dataset.batches(4, seed=2, epoch=1)) != first
    fixed = build("lines", texts, shuffle=False)
    assert rows(fixed.batches(4, 1, 1)) == rows(fixed.batches(4, 2, 5)) != first


@pytest.mark.parametrize("size, start", [(0, 0), (2, -1)])
def test_impossible_batches(build, size, start):
    with pytest.raises(ValueError, match="out of range"):
        next(build("lines", LINES).batches(size, 0, 0, start))


# Bad input 21


def test_long_lines_are_split(build, caplog):
    dataset = build("lines", LINES, max_seq_len=3, shuffle=False)
    assert words(dataset)[2:5] == ["a b c d", "d e f g", "g h </s>"]
    assert words(dataset)[0] == "a b c </s>"
    assert dataset.report["split"] == 1 and dataset.report["samples"] == 7
    assert dataset.report["tokens"] == build("lines", LINES).report["tokens"]
    assert "texts over max_seq_len, split: 1" in caplog.text
    assert max(batch.inputs.shape[1] for batch in dataset.batches(8, 0, 0)) == 3


def test_long_lines_are_truncated(build, caplog):
    dataset = build("lines", LINES, max_seq_len=3, long_lines="truncate")
    assert words(dataset)[2] == "a b c d" and len(dataset) == 5
    assert dataset.report["truncated"] == 1 and dataset.report["split"] == 0
    assert "texts over max_seq_len, truncated: 1" in caplog.text


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9])
def test_splitting_keeps_each_target_once(build, length):
    dataset = build("lines", ["a b c d e f g h"], max_seq_len=length)
    targets = [id for ids, _ in dataset.samples() for id in ids[1:]]
    assert targets == [*TOKENIZER.encode("b c d e f g h"), TOKENIZER.end_id]


# Bad inputs 13, 20


def test_texts_without_targets_are_dropped_and_counted(build, caplog):
    dataset = build("lines", ["</s>", "a"])
    assert len(dataset) == 1 and dataset.report["dropped"] == 1
    assert "1 samples without a target" in caplog.text
    with pytest.raises(DataError, match=r"texts\.json: no target to learn from in 2 texts \(2 d"):
        build("lines", ["</s>", " </s>"])


def test_answers_cut_off_are_dropped(build):
    cut = {"max_seq_len": 5, "answer_only": True, "long_lines": "truncate"}
    dataset = build("chats", ["User: a b c d e Assistant: f", *CHATS], **cut)
    assert dataset.report["dropped"] == 2 and pairs(dataset) == [("d", "e f g")]


def test_validation_split(build):
    texts = [" ".join("abcdefgh"[: n % 8 + 1]) for n in range(20)]
    dataset = build("lines", texts, val_fraction=0.25)
    train, validation = dataset.split(dataset.val_fraction, seed=1)
    assert (len(train), len(validation)) == (15, 5)
    assert sorted(words(train) + words(validation)) == sorted(words(dataset))
    assert train.report["samples"] == 15 and validation.report["samples"] == 5
    assert train.report["tokens"] + validation.report["tokens"] == dataset.report["tokens"]
    again = dataset.split(0.25, seed=1)[1]
    assert again.sha256 == validation.sha256 != dataset.split(0.25, seed=2)[1].sha256
    assert len(rows(validation.batches(2, 0, 0))) == 5
    assert dataset.split(0, seed=1) == (dataset, None)


def test_split_keeps_texts_whole_and_pairs_with_them(build):
    texts = [f"User: {x} {x} Assistant: {x} {x} {x}" for x in "abcdefgh"]
    train, validation = build("chats", texts, max_seq_len=4).split(0.25, seed=0)
    names = [{pair[0][0] for pair in pairs(part)} for part in (train, validation)]
    assert [len(names[0]), len(names[1])] == [6, 2] and names[0].isdisjoint(names[1])
    assert all(word not in " ".join(words(train)).split() for word in names[1])
    assert validation.report["texts"] == 2 and validation.report["samples"] == 6


@pytest.mark.parametrize("fraction, part", [(0.01, "validation"), (0.99, "training")])
def test_empty_split(build, fraction, part):
    with pytest.raises(DataError, match=f"of 5 texts leaves .* so the {part} split is empty"):
        build("lines", LINES).split(fraction, 0)


# Unknown words


def test_unknown_words_are_counted(build, caplog):
    dataset = build("lines", ["a zzz b yyy", "zzz </s>"])
    assert dataset.report["unknown"] == 3 and dataset.unknown_words == ["zzz", "yyy"]
    assert "3 tokens are words that the vocabulary lacks, read as unknown: zzz, yyy" in caplog.text


@pytest.mark.parametrize(("words", "told"), [(30, True), (12, False)])
@pytest.mark.parametrize("policy", ["split", "truncate"])
def test_running_text_is_noticed(tmp_path, caplog, words, told, policy):
    (tmp_path / "a.txt").write_text(f"{'a ' * words}\n" * 9)
    tokenizer = TOKENIZERS.build("word", "tokenizer").train(["a"])
    spec = {"type": "lines", "path": str(tmp_path / "a.txt"), "max_seq_len": 10}
    DATASETS.build({**spec, "long_lines": policy}, "data", tokenizer=tokenizer)
    (line,) = [line for line in caplog.messages if "texts over max_seq_len" in line]
    assert ("31 tokens on average: read running text with data=text" in line) is told


def test_unknown_characters_are_quoted(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("a 5\n")
    tokenizer = TOKENIZERS.build("char", "tokenizer").train(["ab"])
    spec = {"type": "lines", "path": str(tmp_path / "a.txt"), "max_seq_len": 8}
    DATASETS.build(spec, "data", tokenizer=tokenizer)
    assert "2 tokens are characters that the vocabulary lacks, read as unknown: ' ', '5'" in (
        caplog.text
    )


# Chats


def test_chats(build):
    dataset = build("chats", CHATS, shuffle=False)
    assert pairs(dataset) == [("a b", "c"), ("d", "e f g")]
    assert words(dataset)[0] == "User : a b Assistant : c </s>"
    assert all(all(weights) for _, weights in dataset.samples())


def test_answer_only(build):
    dataset = build("chats", CHATS, answer_only=True, shuffle=False)
    ids, weights = dataset.samples()[0]
    assert weights == (0, 0, 0, 0, 0, 1, 1) and len(ids) == 8
    assert dataset.report["tokens"] == 2 + 4
    batch = next(dataset.batches(2, 0, 0))
    assert batch.tokens == 6
    assert [TOKENIZER.token(id) for id in batch.targets[0][batch.weights[0] > 0]] == ["c", "</s>"]


def test_chats_of_another_form_name_their_line(build, tmp_path):
    with pytest.raises(DataError, match=r"texts\.json:1: expected 'User: .*found 'a b'"):
        build("chats", [CHATS[0], "a b"])
    path = tmp_path / "chats.txt"
    path.write_text(f"{CHATS[0]}\n\nhello\n")
    with pytest.raises(DataError, match=r"chats\.txt:3: expected"):
        DATASETS.build({"type": "chats", "path": path}, "data", tokenizer=TOKENIZER, max_seq_len=80)


def test_templates_without_roles_do_not_chat(build):
    with pytest.raises(ConfigError, match=r"'none' has no roles.* template=user_assistant$"):
        build("chats", CHATS, template="none")
    with pytest.raises(ConfigError, match="unknown template 'chat'"):
        build("chats", CHATS, template="chat")


# Options and hashes


@pytest.mark.parametrize(
    "argument",
    [
        {"max_seq_len": 0},
        {"max_seq_len": 4.5},
        {"long_lines": "wrap"},
        {"shuffle": "maybe"},
        {"val_fraction": 1},
        {"val_fraction": -0.1},
        {"val_fraction": float("nan")},
        {"val_fraction": "a"},
        {"answer_only": "yes"},
        {"path": None},
    ],
)
def test_wrong_arguments(build, argument):
    ((key, value),) = argument.items()
    with pytest.raises(ConfigError) as caught:
        build("chats", CHATS, **argument)
    assert str(caught.value).startswith(f"data.{key}={value!r}: ")


def test_sha256_tells_data_apart(build):
    hashes = [
        build("lines", LINES).sha256,
        build("lines", LINES[::-1]).sha256,
        build("lines", [*LINES[:-1], "h h"]).sha256,
        build("lines", LINES, max_seq_len=3).sha256,
        build("chats", CHATS).sha256,
        build("chats", CHATS, answer_only=True).sha256,
    ]
    assert len(set(hashes)) == len(hashes)
    assert build("lines", LINES, shuffle=False).sha256 == hashes[0]
