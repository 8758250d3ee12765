"""llmlab's tokenizers as tokenizer.json, the form of the library `tokenizers`."""

import re
from collections.abc import Mapping
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.exchange.word_spacing import decoder as word_decoder
from llmlab.text import Tokenizer
from llmlab.text.spacing import MARK_RANGES
from llmlab.text.tokenizers.bpe import BpeTokenizer
from llmlab.text.tokenizers.byte import byte_characters


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of a tokenizer.json that gives the same ids for every text.

    Only text that looks like a special token differs: transformers takes it for one.
    """
    forms = {"word": _word, "char": _char, "byte": _byte, "bpe": _bpe}
    if tokenizer.type not in forms:
        raise CheckpointError(
            f"the tokenizer {tokenizer.type!r} can't be exported: tokenizer.json has a form for "
            f"{', '.join(forms)}; train the model with one of these"
        )
    return forms[tokenizer.type](tokenizer)


def _word(tokenizer: Tokenizer) -> dict[str, Any]:
    # Split as Python's \s does it: the library's own notion of white space is another.
    spaces = "".join(chr(code) for code in range(0x3001) if re.match(r"\s", chr(code)))
    cut = [_split(f"[{spaces}]+", "Removed"), _split(f"[{MARK_RANGES}]", "Isolated")]
    return _document(
        tokenizer,
        _word_level(tokenizer),
        {"type": "Sequence", "pretokenizers": cut},
        word_decoder(tokenizer.arguments()["spacing"]),
    )


def _char(tokenizer: Tokenizer) -> dict[str, Any]:
    unknown = {"type": "Replace", "pattern": {"String": "<unk>"}, "content": "\ufffd"}
    decoder = {"type": "Sequence", "decoders": [unknown, {"type": "Fuse"}]}
    cut = _split(r"[\s\S]", "Isolated")
    return _document(tokenizer, _word_level(tokenizer), cut, decoder)


def _byte(tokenizer: Tokenizer) -> dict[str, Any]:
    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return _document(tokenizer, _bpe_model(vocabulary), level, level)


def _bpe(tokenizer: Tokenizer) -> dict[str, Any]:
    assert isinstance(tokenizer, BpeTokenizer)
    content = tokenizer.tokenizer_json()
    # llmlab puts nothing round a text: the template says what stands there.
    content["post_processor"] = None
    return content


def _document(
    tokenizer: Tokenizer, model: Mapping[str, Any], cut: Any, decoder: Any
) -> dict[str, Any]:
    """Return a whole tokenizer.json; the end and the special tokens are what `model` lacks."""
    specials = {tokenizer.token(tokenizer.end_id): tokenizer.end_id, **tokenizer.special_ids}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": id, "content": token, **flags, "special": True}
        for token, id in sorted(specials.items(), key=lambda item: item[1])
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": cut,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def _word_level(tokenizer: Tokenizer) -> dict[str, Any]:
    vocabulary = {tokenizer.token(id): id for id in range(tokenizer.vocab_size)}
    return {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}


def _bpe_model(vocabulary: Mapping[str, int]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": [],
    }


def _split(pattern: str, behavior: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": behavior,
        "invert": False,
    }
