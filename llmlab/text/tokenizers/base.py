"""The contract of a tokenizer: text to ids and back, trained on texts, storable as JSON."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmlab.errors import CheckpointError, ConfigError
from llmlab.registry import Registry

TOKENIZERS = Registry("tokenizer")

_LISTED = 8


class Fragment(NamedTuple):
    """A part of a text that a template writes."""

    text: str  # the text, or the name of a special token; empty for the token that ends a sample
    # Whether it is one special token. Only templates make these, never what users type.
    special: bool = False
    answer: bool = False  # whether the model is to write it


END = Fragment("", special=True, answer=True)


class Tokenizer(ABC):
    """Turn text into ids and back.

    Immutable: `train` gives a new tokenizer. What a factory of `TOKENIZERS` takes is also what
    `arguments` returns, so that building and restoring are the same.

    Attributes
    ----------
    type
        The name that it is registered under.
    unit
        What a token is, as a message names several.
    lossless
        Whether white space is part of the tokens, so that decoding gives known text back exactly.
    end_id
        The id that ends a sample.
    stop_ids
        What ends an answer: the end, and what else the model says where it stops.
    unknown_id
        The id of whatever the vocabulary lacks; None when nothing can be lacking.
    special_ids
        The ids of further special tokens, which chat templates set; no text encodes to them.
    corpus_bytes
        How many bytes of a corpus are enough to train on; None: all are needed.
    """

    type: str
    unit: str = "words"
    lossless: bool = True
    end_id: int
    stop_ids: tuple[int, ...] = ()  # none: the end alone
    unknown_id: int | None
    special_ids: Mapping[str, int]
    corpus_bytes: int | None = None

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Return the number of ids."""

    @abstractmethod
    def train(self, texts: Iterable[str]) -> "Tokenizer":
        """Return a tokenizer whose vocabulary comes from `texts`, whatever their order."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; what looks like a special token in it is plain text."""

    def encode_array(self, text: str) -> NDArray[np.int32]:
        """Return what `encode` does as an array (n,); where it can, faster."""
        return np.array(self.encode(text), dtype=np.int32)

    def encode_fragments(self, fragments: Iterable[Fragment]) -> tuple[list[int], list[bool]]:
        """Return the ids of a text in fragments, and for each whether the model is to write it.

        Neighbours are encoded as one text, but not across the place where the model begins to
        write; a tokenizer whose tokens can reach across such a place does it otherwise.

        Raises
        ------
        ConfigError
            The vocabulary lacks a special token.
        """
        ids: list[int] = []
        answers: list[bool] = []
        for (special, answer), group in groupby(fragments, lambda p: (p.special, p.answer)):
            texts = [fragment.text for fragment in group]
            if special:
                part = [self.special_id(text) if text else self.end_id for text in texts]
            else:
                part = self.encode("".join(texts))
            ids += part
            answers += [answer] * len(part)
        return ids, answers

    def encode_blocks(self, blocks: Iterable[str]) -> Iterator[NDArray[np.int32]]:
        """Yield the ids of a long text that comes in blocks, cut between words."""
        return map(self.encode_array, blocks)

    @abstractmethod
    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Return the text of `ids`; end and special tokens are left out if `skip_special`."""

    def continuation(self, ids: Sequence[int]) -> str:
        """Return what `ids` add to a text that stands before them, its leading space with it."""
        return self.decode(ids)

    @abstractmethod
    def token(self, id: int) -> str:
        """Return the token of one id, readable; raise `ValueError` outside the vocabulary."""

    @abstractmethod
    def unknown_words(self, text: str) -> list[str]:
        """Return the words of `text` that become `unknown_id`, each once, in order."""

    def listed(self, words: Sequence[str]) -> str:
        """Return the first of `words` as a message shows them; quoted where blanks may be words."""
        shown = [repr(word) if self.lossless else word for word in words[:_LISTED]]
        return ", ".join([*shown, *(["..."] if len(words) > _LISTED else [])])

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Return the factory's arguments that rebuild this tokenizer, JSON-able."""

    def byte_lengths(self) -> NDArray[np.int32] | None:
        """Return how many UTF-8 bytes of text each id stands for, (V,); special tokens 0.

        None when that can't be said, as where white space is no part of the tokens.
        """
        return None

    def special_id(self, token: str) -> int:
        """Return the id of a special token; raise `ConfigError` if the vocabulary lacks it."""
        try:
            return self.special_ids[token]
        except KeyError:
            raise ConfigError(
                f"the vocabulary has no special token '{token}', which the template needs; "
                "build the tokenizer with that template (or with tokenizer.specials), or choose "
                "one without special tokens, as template=user_assistant"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Return all of the tokenizer as a JSON-able dict."""
        return {"type": self.type, **self.arguments()}

    @staticmethod
    def from_dict(data: Any) -> "Tokenizer":
        """Return the tokenizer that `to_dict` described; raise `CheckpointError` if damaged."""
        if not isinstance(data, Mapping) or not isinstance(data.get("type"), str):
            raise CheckpointError("tokenizer: damaged, expected a mapping with 'type'")
        try:
            return TOKENIZERS.build(data, "tokenizer")
        except ConfigError as error:
            raise CheckpointError(f"{'; '.join(error.problems)}; it is damaged") from error

    def sha256(self) -> str:
        """Return the hash of the canonical JSON of `to_dict`."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def number_specials(specials: Any, first: int, taken: Sequence[str]) -> dict[str, int]:
    """Return the ids of special tokens, from `first` on."""
    if not isinstance(specials, list | tuple):
        raise ConfigError(f"specials: expected a list, found {type(specials).__name__}")
    ids: dict[str, int] = {}
    for n, token in enumerate(specials):
        if not isinstance(token, str) or not token or token.isspace():
            raise ConfigError(f"specials[{n}]={token!r}: expected the text of a token")
        if token in ids or token in taken:
            raise ConfigError(f"specials[{n}]={token!r}: there is one already")
        ids[token] = first + len(ids)
    return ids


def check_id(id: int, vocab_size: int) -> None:
    """Raise `ValueError` for an id outside the vocabulary."""
    if not 0 <= id < vocab_size:
        raise ValueError(f"id {id} is outside the vocabulary of {vocab_size}")
