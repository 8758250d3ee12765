"""The bytes of UTF-8 as tokens: nothing to train, and nothing is unknown."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmlab.text.tokenizers.base import TOKENIZERS, Tokenizer, check_id, number_specials

_BYTES = 256
_END = "</s>"


@TOKENIZERS.register("byte")
class ByteTokenizer(Tokenizer):
    """Each byte of UTF-8 is a token: ids 0 to 255, then 256 `</s>`, then special tokens.

    Parameters
    ----------
    specials
        Further special tokens, for chat templates.
    """

    type = "byte"
    unknown_id = None
    end_id: int = _BYTES

    def __init__(self, specials: Sequence[str] = ()):
        self.special_ids = number_specials(specials, _BYTES + 1, [_END])
        self._names = {self.end_id: _END} | {id: name for name, id in self.special_ids.items()}

    @property
    def vocab_size(self) -> int:
        """Return 257 and the number of special tokens."""
        return _BYTES + len(self._names)

    def train(self, texts: Iterable[str]) -> "ByteTokenizer":
        """Return this tokenizer; `texts` are not read."""
        return self

    def encode(self, text: str) -> list[int]:
        """Return the bytes of `text`; a lone surrogate, which has none, becomes `?`."""
        return list(text.encode("utf-8", "replace"))

    def encode_array(self, text: str) -> NDArray[np.int32]:
        """Return what `encode` does as an array."""
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Return the text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        fragments = bytearray()
        for id in ids:
            check_id(id, self.vocab_size)
            if id < _BYTES:
                fragments.append(id)
            elif not skip_special:
                fragments += self._names[id].encode()
        return fragments.decode("utf-8", "replace")

    def token(self, id: int) -> str:
        r"""Return the character of an ASCII byte, `\xNN` of another, or the special token."""
        check_id(id, self.vocab_size)
        if id >= _BYTES:
            return self._names[id]
        return chr(id) if id < 128 else f"\\x{id:02x}"

    def unknown_words(self, text: str) -> list[str]:
        """Return nothing."""
        return []

    def arguments(self) -> dict[str, Any]:
        """Return `specials`."""
        return {"specials": list(self.special_ids)}

    def byte_lengths(self) -> NDArray[np.int32]:
        """Return 1 for each byte."""
        return (np.arange(self.vocab_size) < _BYTES).astype(np.int32)


def byte_characters() -> list[str]:
    """Return the character that stands for each byte in byte-level BPE (GPT-2's encoder.py).

    Bytes that are visible in Latin-1 stand for themselves, the others for what follows U+0100.
    """
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in visible else chr(next(others)) for byte in range(256)]


def readable(token: str) -> str | None:
    r"""Return the text of a token of byte-level BPE, with `\xNN` for bytes that are none alone.

    Also of `<0xNN>`; None if the token is written otherwise.
    """
    if fallback := re.fullmatch("<0x([0-9A-F]{2})>", token):
        return rf"\x{fallback[1].lower()}"
    alphabet = {character: byte for byte, character in enumerate(byte_characters())}
    if not alphabet.keys() >= set(token):
        return None
    return bytes(alphabet[character] for character in token).decode("utf-8", "backslashreplace")
