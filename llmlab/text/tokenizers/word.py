"""RustGPT's word rules: white space separates, each ASCII punctuation mark stands alone."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from llmlab.errors import ConfigError, DataError
from llmlab.text.spacing import MARK_RANGES, MARKS, spaces_before
from llmlab.text.tokenizers.base import TOKENIZERS, Tokenizer, check_id, number_specials

_TOKEN = re.compile(rf"[{MARK_RANGES}]|[^\s{MARK_RANGES}]+")
_SPECIALS = ("<unk>", "</s>")


@TOKENIZERS.register("word")
class WordTokenizer(Tokenizer):
    """Words and punctuation marks as tokens, case-sensitive.

    Ids: 0 `<unk>`, 1 `</s>`, further special tokens, then the words in sorted order. No text
    encodes to a special id but by an unknown word, since `<` and `>` are tokens of their own.

    Decoding sets spaces by rules for English. Training notes the neighbours that always stand
    otherwise in its texts, so those come back as they were.

    Parameters
    ----------
    words
        The vocabulary without the special tokens, sorted; empty before training.
    spacing
        `[left, right, space]` for the neighbours whose spacing the rules get wrong.
    specials
        Further special tokens, for chat templates.
    """

    type = "word"
    lossless = False
    unknown_id: int = 0
    end_id: int = 1

    def __init__(
        self,
        words: Sequence[str] = (),
        spacing: Sequence[Sequence[Any]] = (),
        specials: Sequence[str] = (),
    ):
        _check_words(words)
        _check_spacing(spacing)
        self.special_ids = number_specials(specials, len(_SPECIALS), _SPECIALS)
        self._tokens = (*_SPECIALS, *self.special_ids, *words)
        self._first = len(self._tokens) - len(words)
        self._ids = {word: id for id, word in enumerate(words, self._first)}
        self._spacing = {(left, right): space for left, right, space in spacing}

    @property
    def vocab_size(self) -> int:
        """Return the number of words and special tokens."""
        return len(self._tokens)

    def train(self, texts: Iterable[str]) -> "WordTokenizer":
        """Return a tokenizer that knows every word of `texts`; raise `DataError` if none."""
        words: set[str] = set()
        # Per pair of neighbours: which spacings were seen, and whether the rules ever erred.
        seen: dict[tuple[str, str], tuple[set[bool], set[bool]]] = {}
        for text in texts:
            matches = list(_TOKEN.finditer(text))
            tokens = [match.group() for match in matches]
            words.update(tokens)
            expected = spaces_before(tokens)
            for i in range(1, len(tokens)):
                pair = (tokens[i - 1], tokens[i])
                if MARKS.isdisjoint(pair):
                    continue
                space = matches[i - 1].end() < matches[i].start()
                spaces, errors = seen.setdefault(pair, (set(), set()))
                spaces.add(space)
                errors.add(space != expected[i])
        if not words:
            raise DataError("the tokenizer's corpus holds no word; give it a file with text")
        spacing = [
            [*pair, spaces.pop()]
            for pair, (spaces, errors) in sorted(seen.items())
            if len(spaces) == 1 and True in errors
        ]
        return WordTokenizer(sorted(words), spacing, tuple(self.special_ids))

    def encode(self, text: str) -> list[int]:
        """Return one id per word and punctuation mark; unknown words give 0."""
        return [self._ids.get(token, self.unknown_id) for token in _TOKEN.findall(text)]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Return readable text; `<unk>` is shown, the other special tokens at will."""
        kept = [id for id in ids if not (skip_special and 0 < id < self._first)]
        tokens = [self.token(id) for id in kept]
        parts = []
        for i, space in enumerate(spaces_before(tokens)):
            space = self._spacing.get((tokens[i - 1], tokens[i]), space) if i else False
            parts.append(f" {tokens[i]}" if space else tokens[i])
        return "".join(parts)

    def token(self, id: int) -> str:
        """Return the word of `id`; raise `ValueError` outside the vocabulary."""
        check_id(id, len(self._tokens))
        return self._tokens[id]

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of `text` that the vocabulary lacks, each once, in order."""
        return [word for word in dict.fromkeys(_TOKEN.findall(text)) if word not in self._ids]

    def arguments(self) -> dict[str, Any]:
        """Return `words`, `spacing` and `specials`."""
        return {
            "words": list(self._tokens[self._first :]),
            "spacing": [[*pair, space] for pair, space in self._spacing.items()],
            "specials": list(self.special_ids),
        }


def _check_words(words: Any) -> None:
    if not isinstance(words, list | tuple):
        raise ConfigError(f"words: expected a list, found {type(words).__name__}")
    last = ""
    for n, word in enumerate(words):
        if not isinstance(word, str) or not _TOKEN.fullmatch(word):
            raise ConfigError(f"words[{n}]={word!r}: not one word or punctuation mark")
        if word <= last:
            raise ConfigError(f"words[{n}]={word!r}: repeated or not in sorted order")
        last = word


def _check_spacing(spacing: Any) -> None:
    if not isinstance(spacing, list | tuple):
        raise ConfigError(f"spacing: expected a list, found {type(spacing).__name__}")
    for n, entry in enumerate(spacing):
        if not isinstance(entry, list | tuple) or len(entry) != 3:
            raise ConfigError(f"spacing[{n}]={entry!r}: expected [left, right, space]")
        left, right, space = entry
        if not (isinstance(left, str) and isinstance(right, str) and isinstance(space, bool)):
            raise ConfigError(f"spacing[{n}]={entry!r}: expected two words and true or false")
