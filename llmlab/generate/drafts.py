"""Guesses of the next tokens, which a network then checks in one pass."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llmlab.generate.kv_cache import SLACK
from llmlab.generate.samplers import Rows, Sampler

NGRAM, SHORTEST = 6, 2  # tokens that have to be repeated before what followed them is guessed
GUESSED = 5
MOST = SLACK - 1  # a window can't take back more


@dataclass
class Tally:
    """What came of drafts."""

    # Passes of the network for one row each, and tokens that these gave
    passes: int = 0
    tokens: int = 0
    # Tokens that were guessed, and those of them that the network would have written, too
    drafted: int = 0
    accepted: int = 0


@dataclass
class Guess:
    """The tokens that may come next in a row."""

    ids: list[int] = field(default_factory=list)  # the tokens
    # What each was drawn from, (V,); empty if they weren't drawn.
    distributions: list[np.ndarray] = field(default_factory=list)


class Drafting(ABC):
    """Guesses for one batch, beside its decoding."""

    @abstractmethod
    def guess(self, texts: Sequence[Sequence[int]], counts: Sequence[int]) -> list[Guess]:
        """Return what may come after each text, at most so many tokens each.

        A text is the one of the last call, or a longer one that begins with it.
        """

    @abstractmethod
    def select(self, rows: Sequence[int]) -> None:
        """Keep, reorder or repeat rows: row i becomes the old row rows[i]."""


class Draft(ABC):
    """A way to guess, at most `tokens` at a time."""

    def __init__(self, tokens: int = GUESSED):
        if not 1 <= tokens <= MOST:
            raise ValueError(f"a guess has 1 to {MOST} tokens")
        self.tokens = tokens
        self.tally = Tally()  # what came of all guesses so far

    @abstractmethod
    def start(self, texts: Sequence[Sequence[int]], sampler: Sampler, rows: Rows) -> Drafting:
        """Return the guesses for a batch; `rows` are those that `sampler` chooses for."""


class NgramDraft(Draft):
    """Guess that what followed the last tokens before follows them again (prompt lookup).

    Saxena 2023, "Prompt Lookup Decoding". Costs no pass of any network.
    """

    def start(self, texts, sampler, rows):
        """Return the guesses for a batch."""
        return _Ngrams(len(texts))


class _Ngrams(Drafting):
    def __init__(self, batch: int):
        # Where what followed the newest n-gram of each kind begins, and how much was read.
        self._places: list[dict[tuple[int, ...], int]] = [{} for _ in range(batch)]
        self._read = [0] * batch

    def guess(self, texts, counts):
        return [
            Guess(self._row(row, text, count) if count > 0 else [])
            for row, (text, count) in enumerate(zip(texts, counts, strict=True))
        ]

    def select(self, rows):
        self._places = [dict(self._places[row]) for row in rows]
        self._read = [self._read[row] for row in rows]

    def _row(self, row: int, text: Sequence[int], count: int) -> list[int]:
        places = self._places[row]
        for end in range(max(self._read[row], 1), len(text)):
            for size in range(SHORTEST, min(NGRAM, end) + 1):
                places[tuple(text[end - size : end])] = end
        self._read[row] = len(text)
        for size in range(min(NGRAM, len(text)), SHORTEST - 1, -1):
            start = places.get(tuple(text[len(text) - size :]))
            if start is not None:
                found: list[int] = []
                for at in range(start, start + count):  # a loop goes on into the guess itself
                    found.append(text[at] if at < len(text) else found[at - len(text)])
                return found
        return []
