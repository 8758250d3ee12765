"""The contract of a tokenizer: text to ids and back, trained on texts, storable as JSON."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmlab.errors import CheckpointError, ConfigError
from llmlab.registry import Registry

TOKENIZERS = Registry("tokenizer")


class Tokenizer(ABC):
    """Turn text into ids and back.

    Immutable: `train` gives a new tokenizer. What a factory of `TOKENIZERS` takes is also what
    `arguments` returns, so that building and restoring are the same.

    Attributes
    ----------
    type
        The name that it is registered under.
    end_id
        The id that ends a sample.
    unknown_id
        The id of whatever the vocabulary lacks; None when nothing can be lacking.
    """

    type: str
    end_id: int
    unknown_id: int | None

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

    @abstractmethod
    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Return the text of `ids`; the end token is left out if `skip_special`."""

    @abstractmethod
    def token(self, id: int) -> str:
        """Return the token of one id."""

    @abstractmethod
    def unknown_words(self, text: str) -> list[str]:
        """Return the words of `text` that become `unknown_id`, each once, in order."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Return the factory's arguments that rebuild this tokenizer, JSON-able."""

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
