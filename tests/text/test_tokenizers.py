import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.errors import CheckpointError, ConfigError, DataError
from llmlab.text import TOKENIZERS, Tokenizer, corpus_texts, train_tokenizer
from llmlab.text.spacing import spaces_before
from llmlab.text.tokenizers.word import WordTokenizer

fixed = settings(derandomize=True, max_examples=100, deadline=None)
TEXTS = ["What's up, User?", "Rain falls: (mostly) on well-known hills.", "Größe 10"]


def trained(texts=TEXTS):
    return TOKENIZERS.build("word", "tokenizer").train(texts)


def tokens_of(text):
    tokenizer = trained([text])
    return [tokenizer.token(id) for id in tokenizer.encode(text)]


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("What's up?", "What ' s up ?"),
        ("a\tb\n c  d", "a b c d"),
        ("</s>", "< / s >"),
        ("3.14 $x", "3 . 14 $ x"),
        ("naïve Größe—ja", "naïve Größe—ja"),
        ("well-known", "well - known"),
        ("a_b", "a _ b"),
        ("Rain rain", "Rain rain"),
    ],
)
def test_rules(text, tokens):
    assert tokens_of(text) == tokens.split(" ")


def test_every_ascii_punctuation_mark_stands_alone():
    marks = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    assert tokens_of("x" + "x".join(marks) + "x") == list("x" + "x".join(marks) + "x")


def test_vocabulary_order_and_special_ids():
    tokenizer = trained(["b a", "C, a"])
    assert [tokenizer.token(id) for id in range(tokenizer.vocab_size)] == [
        *("<unk>", "</s>"),
        *(",", "C", "a", "b"),
    ]
    assert (tokenizer.unknown_id, tokenizer.end_id) == (0, 1)
    assert trained(["C, a", "b a"]).to_dict() == tokenizer.to_dict()


def test_unknown_words():
    tokenizer = trained()
    assert tokenizer.encode("Rain zzz falls") == [
        *tokenizer.encode("Rain"),
        0,
        *tokenizer.encode("falls"),
    ]
    assert tokenizer.unknown_words("zzz Rain yyy! zzz") == ["zzz", "yyy", "!"]
    assert tokenizer.decode(tokenizer.encode("Rain zzz falls")) == "Rain <unk> falls"


@pytest.mark.parametrize("text", ["</s>", "<unk>", "a</s>b", "User: </s> Assistant: <unk>"])
def test_special_looking_text_is_plain(text):
    tokenizer = trained([text])
    assert min(tokenizer.encode(text)) > 1


@fixed
@given(st.text(), st.text())
def test_known_text_never_gives_special_ids(text, other):
    tokenizer = trained([text, other, "x"])
    assert all(id > 1 for id in tokenizer.encode(f"{text} {other}"))
    assert tokenizer.unknown_words(text) == []


@fixed
@given(st.text())
def test_decoding_keeps_the_words_in_order(text):
    tokenizer = trained([text, "x"])
    decoded = tokenizer.decode(tokenizer.encode(text))
    assert "".join(decoded.split()) == "".join(text.split())


def test_end_token():
    tokenizer = trained()
    ids = [*tokenizer.encode("Rain falls"), tokenizer.end_id]
    assert tokenizer.decode(ids) == "Rain falls"
    assert tokenizer.decode(ids, skip_special=False) == "Rain falls </s>"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("id", [-1, 10_000])
def test_ids_outside_are_refused(id):
    with pytest.raises(ValueError, match="outside the vocabulary"):
        trained().decode([id])


SPACED = """\
What's up, doc?
I don't know; they've said I'll wait.
He said, "Hello there," and left.
"Is it?" she asked.
The rivers' banks (both of them) are wet.
O'Brien said 'hello' to the dogs' owner: it's done!
'tis fine
('a' or 'b')
It costs $5.50, i.e. 10% of 1,000.
A well-known case at 10:30 in the U.S. today...
Really?! Yes, 3/4 of them.
2 + 2 = 4 & more
[see note 3]
https://x""".splitlines()


@pytest.mark.parametrize("text", SPACED)
def test_spaces_by_rule(text):
    tokens = tokens_of(text)
    spaces = spaces_before(tokens)
    parts = [" " * space + token for space, token in zip(spaces, tokens, strict=True)]
    assert "".join(parts) == text


def test_training_notes_spacing_that_the_rules_miss():
    odd = "Wait - no, 2 - 1 is one in foo.py"
    tokenizer = trained([odd, "a well-known fact"])
    assert tokenizer.decode(tokenizer.encode(odd)) == odd
    assert tokenizer.decode(tokenizer.encode("a well-known fact")) == "a well-known fact"
    restored = Tokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert restored.decode(restored.encode(odd)) == odd


def test_spacing_that_varies_is_left_to_the_rules():
    assert trained(["2 - 1", "2-1"]).to_dict()["spacing"] == []


def test_training_on_nothing():
    with pytest.raises(DataError, match="holds no word"):
        trained([" "])


def test_dict_round_trip():
    tokenizer = trained()
    restored = Tokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert isinstance(restored, WordTokenizer)
    assert restored.to_dict() == tokenizer.to_dict() and restored.sha256() == tokenizer.sha256()
    assert restored.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert trained([*TEXTS, "more"]).sha256() != tokenizer.sha256()


@pytest.mark.parametrize(
    "damage",
    [
        None,
        [],
        {},
        {"type": 5},
        {"type": ["word"]},
        {"type": "wrod", "words": ["a"]},
        {"type": "word", "vocab": ["a"]},
        {"type": "word", "words": "abc"},
        {"type": "word", "words": {"a": 1}},
        {"type": "word", "words": ["b", "a"]},
        {"type": "word", "words": ["a", "a"]},
        {"type": "word", "words": ["a", 5]},
        {"type": "word", "words": [""]},
        {"type": "word", "words": ["a b"]},
        {"type": "word", "words": ["</s>"]},
        {"type": "word", "words": ["a"], "spacing": [["a", "b"]]},
        {"type": "word", "words": ["a"], "spacing": [["a", "b", 1]]},
        {"type": "word", "words": ["a"], "spacing": [[["a"], "b", True]]},
        {"type": "word", "words": ["a"], "spacing": 5},
    ],
)
def test_damaged_dict(damage):
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_dict(damage)
    assert "\n" not in str(caught.value) and "damaged" in str(caught.value)


def test_the_same_damage_in_a_config_is_a_config_error():
    with pytest.raises(ConfigError, match=r"tokenizer\.words\[0\]"):
        TOKENIZERS.build({"type": "word", "words": ["a b"]}, "tokenizer")


def test_corpus(tmp_path, caplog):
    a, b = tmp_path / "a.json", tmp_path / "b.txt"
    a.write_text('["Rain falls. </s>"]')
    b.write_bytes(b"\xef\xbb\xbfSun shines</s>\n")
    assert list(corpus_texts([a, b, a], notices=False)) == ["Rain falls.", "Sun shines"]
    tokenizer = train_tokenizer("word", [a, b])
    assert tokenizer.vocab_size == 2 + 5 and not caplog.records
    with pytest.raises(DataError, match="no such file"):
        train_tokenizer("word", [tmp_path / "c.txt"])
