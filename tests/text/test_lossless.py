"""Tokenizers that give every text back: characters, bytes, byte-level BPE."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.errors import CheckpointError, ConfigError, DataError, ResourceError
from llmlab.text import TOKENIZERS, corpus_texts, train_tokenizer
from llmlab.text.tokenizers.base import Tokenizer
from llmlab.text.tokenizers.bpe import BpeTokenizer

tokenizers = pytest.importorskip("tokenizers")
fixed = settings(derandomize=True, max_examples=150, deadline=None)

CORPUS = [
    "the cat sat on the mat, the cat's hat; don't the dog's?\n",
    "éclair naïve 漢字 👩‍🚀 12345\r\n",
]
HARD = [
    "",
    " ",
    "\n\n \t\n",
    "  leading and trailing  ",
    "a\r\nb\rc",
    "\x00\x01\x7f\x85\u2028",
    "e\u0301 é ﬁ Å Å",  # composed and not: no normalisation
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\u202eright to left\u202c שלום",
    "\ufeffbom \ufffd",
    "<|endoftext|></s><unk><|im_start|>[SEP]",
    "don't DON'T we'll I'd",
    "3.14159 1,000,000 ٣٤٥ Ⅷ",
    "x" * 2000,
    "\U0010ffff\ue000",
]


@pytest.fixture(scope="module")
def every():
    bpe = TOKENIZERS.build({"type": "bpe", "vocab_size": 300}, "tokenizer").train(CORPUS)
    return {"byte": TOKENIZERS.build("byte", "tokenizer"), "bpe": bpe}


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@pytest.mark.parametrize("text", HARD)
def test_hard_strings_come_back(every, kind, text):
    tokenizer = every[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_array(text).tolist() == ids
    assert tokenizer.unknown_words(text) == []
    assert tokenizer.end_id not in ids
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())


@fixed
@given(st.text())
def test_bytes_and_pairs_round_trip(text):
    byte = TOKENIZERS.build("byte", "tokenizer")
    assert byte.decode(byte.encode(text)) == text
    assert byte.encode_array(text).tolist() == byte.encode(text) == list(text.encode())


@fixed
@given(st.text())
def test_bpe_round_trip(every, text):
    assert every["bpe"].decode(every["bpe"].encode(text)) == text


@fixed
@given(st.text(), st.text())
def test_characters_round_trip(text, other):
    tokenizer = TOKENIZERS.build("char", "tokenizer").train([text, "x"])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and min(ids, default=2) >= 2
    mixed = tokenizer.encode(text + other)
    assert tokenizer.encode_array(text + other).tolist() == mixed
    unknown = tokenizer.unknown_words(text + other)
    assert set(unknown) == set(other) - set(text) - {"x"}
    assert mixed.count(0) == sum(character in unknown for character in other)
    assert tokenizer.decode(mixed) == "".join(
        "\ufffd" if character in unknown else character for character in text + other
    )


@pytest.mark.parametrize("text", [text for text in HARD if text])
def test_hard_characters(text):
    tokenizer = TOKENIZERS.build("char", "tokenizer").train([text])
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.byte_lengths()[tokenizer.encode(text)].sum() == len(text.encode())


def test_lone_surrogates_never_fail(every):
    assert every["byte"].decode(every["byte"].encode("a\udce9b")) == "a?b"
    assert every["bpe"].decode(every["bpe"].encode("a\udce9b")) == "a?b"
    char = TOKENIZERS.build("char", "tokenizer").train(["ab"])
    assert char.encode("a\udce9b") == [2, 0, 3] == char.encode_array("a\udce9b").tolist()


def test_bpe_agrees_with_the_library(every):
    ours = every["bpe"]
    theirs = tokenizers.Tokenizer.from_str(json.dumps(ours.to_dict()["json"]))
    theirs.encode_special_tokens = True
    for text in [*CORPUS, *HARD]:
        encoding = theirs.encode(text)
        assert ours.encode(text) == encoding.ids
        assert len(ours.encode(text)) <= len(text.encode())
    assert ours.vocab_size == theirs.get_vocab_size()
    assert len(ours.encode(CORPUS[0])) < 0.7 * len(CORPUS[0])


def test_bpe_as_the_library_trains_it(every):
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator(
        CORPUS, vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False
    )
    for text in CORPUS:
        assert every["bpe"].encode(text) == theirs.encode(text).ids


@pytest.mark.parametrize("kind", ["byte", "bpe", "char", "word"])
def test_special_tokens_are_never_in_text(kind):
    specials = ["<|im_start|>", "<|im_end|>"]
    text = "say <|im_start|>user</s><unk><|endoftext|> and <|im_end|>"
    spec = {"type": kind, "specials": specials}
    tokenizer = TOKENIZERS.build(spec, "tokenizer").train([text])
    special = {tokenizer.end_id, *tokenizer.special_ids.values()}
    assert len(special) >= 3 and special.isdisjoint(tokenizer.encode(text))
    assert len({tokenizer.special_id(name) for name in specials}) == 2
    ids = [tokenizer.special_id("<|im_start|>"), *tokenizer.encode("user"), tokenizer.end_id]
    assert tokenizer.decode(ids) == "user"
    assert "<|im_start|>" in tokenizer.decode(ids, skip_special=False)
    restored = Tokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert restored.encode(text) == tokenizer.encode(text)
    assert restored.special_ids == tokenizer.special_ids
    assert restored.sha256() == tokenizer.sha256()
    assert restored.vocab_size == tokenizer.vocab_size > max(special)
    with pytest.raises(ConfigError, match=r"no special token '<x>'"):
        tokenizer.special_id("<x>")


@pytest.mark.parametrize("kind", ["byte", "bpe", "char"])
def test_ids(every, kind):
    tokenizer = every.get(kind) or TOKENIZERS.build("char", "tokenizer").train(CORPUS)
    tokens = [tokenizer.token(id) for id in range(tokenizer.vocab_size)]
    assert all(isinstance(token, str) and token for token in tokens)
    for id in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            tokenizer.token(id)
        with pytest.raises(ValueError, match="outside the vocabulary"):
            tokenizer.decode([id])


def test_unfinished_characters_are_shown_as_such(every):
    ids = every["byte"].encode("é")
    assert every["byte"].decode(ids[:1]) == "\ufffd"
    assert [every["byte"].token(id) for id in ids] == ["\\xc3", "\\xa9"]


@pytest.fixture
def file(tmp_path, every):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(every["bpe"].to_dict()["json"]))
    return path


def test_any_tokenizer_json(file, every):
    loaded = train_tokenizer({"type": "pretrained", "path": str(file)}, [])
    assert loaded.encode(CORPUS[0]) == every["bpe"].encode(CORPUS[0])
    assert "path" not in loaded.to_dict()
    file.unlink()
    assert Tokenizer.from_dict(loaded.to_dict()).encode("the cat") == loaded.encode("the cat")


def test_special_tokens_are_added_to_a_tokenizer_json(file, every):
    loaded = train_tokenizer({"type": "pretrained", "path": str(file)}, [], template="chatml")
    assert loaded.vocab_size == every["bpe"].vocab_size + 2
    assert loaded.special_id("<|im_end|>") == loaded.vocab_size - 1
    assert loaded.special_id("<|im_end|>") not in loaded.encode("<|im_end|>")
    assert Tokenizer.from_dict(loaded.to_dict()).special_ids == loaded.special_ids


def test_other_kinds_of_tokenizer_json(tmp_path):
    content = json.loads(
        tokenizers.Tokenizer(
            tokenizers.models.WordLevel({"[UNK]": 0, "cat": 1, "sat": 2, "[SEP]": 5}, "[UNK]")
        ).to_str()
    )
    content["pre_tokenizer"] = {"type": "Whitespace"}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] = [{"id": 5, "content": "[SEP]", "special": True, **special}]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    tokenizer = TOKENIZERS.build({"type": "pretrained", "path": str(path)}, "tokenizer")
    assert tokenizer.encode("cat dog sat") == [1, 0, 2]
    assert tokenizer.unknown_words("cat dog sat") == ["dog"] and tokenizer.unknown_id == 0
    assert tokenizer.end_id == 5 and tokenizer.vocab_size == 6  # ids 3 and 4 are nobody's
    assert tokenizer.byte_lengths() is None
    with pytest.raises(ConfigError, match=r"end=</s>: not among the special tokens \(\[SEP\]\)"):
        BpeTokenizer(json=content, end="</s>")


@pytest.mark.parametrize(
    "text, reason", [("{}", "no 'model'"), ("[1", "not a tokenizer.json"), (None, "cannot be read")]
)
def test_files_that_are_no_tokenizer(tmp_path, text, reason):
    path = tmp_path / "tokenizer.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=reason) as caught:
        TOKENIZERS.build({"type": "pretrained", "path": str(path)}, "tokenizer")
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        {"type": "char", "characters": "ba"},
        {"type": "char", "characters": ["a"]},
        {"type": "char", "characters": "aa"},
        {"type": "byte", "specials": ["</s>"]},
        {"type": "byte", "specials": "ab"},
        {"type": "byte", "specials": ["a", "a"]},
        {"type": "byte", "specials": [""]},
        {"type": "bpe", "vocab_size": 256},
        {"type": "bpe", "json": {"model": 5}},
        {"type": "bpe", "json": "{}"},
    ],
)
def test_damaged_dict(damage):
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_dict(damage)
    assert "\n" not in str(caught.value) and "damaged" in str(caught.value)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_training_on_nothing(kind):
    with pytest.raises(DataError, match="corpus holds no"):
        TOKENIZERS.build(kind, "tokenizer").train([])


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ResourceError, match=r"pip install 'llmlab\[bpe\]'"):
        TOKENIZERS.build("bpe", "tokenizer")


def test_order_of_the_corpus_does_not_matter(every):
    assert TOKENIZERS.build({"type": "bpe", "vocab_size": 300}, "t").train(
        CORPUS[::-1]
    ).sha256() == (every["bpe"].sha256())


def test_corpus_with_its_line_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"ab\r\n\ncd\n")
    assert train_tokenizer("char", [tmp_path]).unknown_words("a\nbcd") == []
    assert train_tokenizer("word", [tmp_path]).unknown_words("a\nab cd") == ["a"]


def test_the_arrays_are_small_integers():
    char = TOKENIZERS.build("char", "tokenizer").train(["ab"])
    assert char.encode_array("abc").dtype == np.int32


def test_a_large_corpus_is_read_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr("llmlab.text.files.BLOCK", 1000)
    half = "abc abd " * 1000
    (tmp_path / "a.txt").write_text(half + half.upper())
    spec = {"type": "bpe", "vocab_size": 280}
    whole = train_tokenizer(spec, [tmp_path])
    part = train_tokenizer({**spec, "corpus_bytes": 4000}, [tmp_path])
    for tokenizer in (whole, part):  # both ends of it were seen
        assert len(tokenizer.encode(" abc ABD")) <= 4
    taken = sum(map(len, corpus_texts([tmp_path], lossless=True, limit=4000)))
    assert 3000 < taken < 5000
    with pytest.raises(ConfigError, match="corpus_bytes=0"):
        train_tokenizer({**spec, "corpus_bytes": 0}, [tmp_path])
