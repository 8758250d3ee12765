"""Characters as tokens."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmlab.errors import ConfigError, DataError
from llmlab.text.tokenizers.base import TOKENIZERS, Tokenizer, check_id, number_specials

_SPECIALS = ("<unk>", "</s>")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@TOKENIZERS.register("char")
class CharTokenizer(Tokenizer):
    """Each character (code point) of the corpus is a token.

    Ids: 0 `<unk>`, 1 `</s>`, further special tokens, then the characters in order.

    Parameters
    ----------
    characters
        The vocabulary in one string, sorted; empty before training.
    specials
        Further special tokens, for chat templates.
    """

    type = "char"
    unit = "characters"
    unknown_id: int = 0
    end_id: int = 1

    def __init__(self, characters: str = "", specials: Sequence[str] = ()):
        if not isinstance(characters, str) or "".join(sorted(set(characters))) != characters:
            raise ConfigError("characters: expected a string of different ones in sorted order")
        self._characters = characters
        self.special_ids = number_specials(specials, len(_SPECIALS), _SPECIALS)
        self._tokens = (*_SPECIALS, *self.special_ids, *characters)
        self._first = len(self._tokens) - len(characters)
        self._ids = {character: id for id, character in enumerate(characters, self._first)}
        codes = _codes(characters)
        # One more row than there are codes: all that lie beyond are unknown.
        self._table = np.zeros(int(codes.max(initial=0)) + 2, dtype=np.int32)
        self._table[codes] = np.arange(self._first, len(self._tokens))

    @property
    def vocab_size(self) -> int:
        """Return the number of characters and special tokens."""
        return len(self._tokens)

    def train(self, texts: Iterable[str]) -> "CharTokenizer":
        """Return a tokenizer that knows every character of `texts`; raise `DataError` if none."""
        found: set[str] = set()
        for text in texts:
            found |= set(text)
        if not found:
            raise DataError("the tokenizer's corpus holds no character; give it a file with text")
        return CharTokenizer("".join(sorted(found)), tuple(self.special_ids))

    def encode(self, text: str) -> list[int]:
        """Return one id per character; unknown ones give 0."""
        return [self._ids.get(character, self.unknown_id) for character in text]

    def encode_array(self, text: str) -> NDArray[np.int32]:
        """Return what `encode` does as an array."""
        return self._table[np.minimum(_codes(text), len(self._table) - 1)]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Return the text of `ids`; unknown characters are shown as U+FFFD."""
        parts = []
        for id in ids:
            token = self.token(id)
            if id == self.unknown_id:
                parts.append(_REPLACEMENT)
            elif id >= self._first or not skip_special:
                parts.append(token)
        return "".join(parts)

    def token(self, id: int) -> str:
        """Return the character of `id`; raise `ValueError` outside the vocabulary."""
        check_id(id, len(self._tokens))
        return self._tokens[id]

    def unknown_words(self, text: str) -> list[str]:
        """Return the characters of `text` that the vocabulary lacks, each once, in order."""
        return [character for character in dict.fromkeys(text) if character not in self._ids]

    def arguments(self) -> dict[str, Any]:
        """Return `characters` and `specials`."""
        return {"characters": self._characters, "specials": list(self.special_ids)}

    def byte_lengths(self) -> NDArray[np.int32]:
        """Return the length of each character in UTF-8; of an unknown one it isn't known: 0."""
        lengths = [len(character.encode("utf-8", "replace")) for character in self._characters]
        return np.array([0] * self._first + lengths, dtype=np.int32)


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
