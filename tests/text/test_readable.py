r"""Tokens that are parts of a character: shown as `\xNN`, not as a replacement character."""

import pytest

from llmlab.text import train_tokenizer
from llmlab.text.tokenizers.byte import byte_characters, readable

pytest.importorskip("tokenizers")


def test_bytes_of_a_character_are_told_apart(tmp_path):
    corpus = tmp_path / "text"
    corpus.write_text("the sun warms the sea\n" * 3)
    tokenizer = train_tokenizer({"type": "bpe", "vocab_size": 270}, [str(corpus)])
    ids = tokenizer.encode("æ 水 the")
    tokens = [tokenizer.token(id) for id in ids]
    assert tokens[:2] == [r"\xc3", r"\xa6"]
    assert [t for t in tokens if t.startswith("\\")][2:] == [r"\xe6", r"\xb0", r"\xb4"]
    assert tokens[-1].strip() in "the"
    assert tokenizer.decode(ids) == "æ 水 the"


def test_tokens_of_other_alphabets():
    characters = byte_characters()
    assert readable("".join(characters[byte] for byte in "é☆".encode())) == "é☆"
    assert readable("".join(characters[byte] for byte in b"a\xe6\xb0")) == r"a\xe6\xb0"
    assert readable("<0xE6>") == r"\xe6"
    assert readable("☆") is None
    replaced = "".join(characters[byte] for byte in "\ufffd".encode())
    assert readable(replaced) == "\ufffd"
