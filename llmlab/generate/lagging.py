"""Plain decoding that runs behind: asked only where the last bits decide.

The last bits of a product depend on how many rows it has, and a pass over several tokens has more
rows than one over a single token. So its scores differ from those of plain decoding by rounding.
Where the two greatest scores are further apart than that, both take the same token. Where they
aren't, the very passes of plain decoding are made, for all rows of the batch and up to this token,
and what they say is taken. So what comes out is equal to the last token, and ties are rare enough
to cost little.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmlab.generate.decoding import Decoding, Reply
from llmlab.generate.samplers import Rows, Sampler

# Scores that are closer than this are left to plain decoding, in units of the last place of the
# greatest score.
ROUNDING = 512


@dataclass
class Row:
    """A reply that is being written."""

    number: int  # which of the replies it is
    prompt: Sequence[int]
    reply: Reply
    rng: np.random.Generator | None
    # Prompt and reply, and where the part of it begins that is in view
    text: list[int] = field(init=False)
    start: int = 0
    waiting: bool = False  # whether plain decoding has to say the next token
    reach: int = 1_000  # how many tokens are worth guessing
    # How many tokens were chosen when it ended, with the one that ended it; None before.
    choices: int | None = None

    def __post_init__(self) -> None:
        self.text = list(self.prompt)


@dataclass(frozen=True)
class Terms:
    """What replies are written by; see `Engine.generate`."""

    # Returns the state before the first token, with room for so many tokens more than needed
    start: Callable[[int], Decoding]
    sampler: Sampler
    stops: frozenset[int]
    limit: int
    until: Callable[[Sequence[int]], bool] | None
    refill: bool

    def described(self, rows: Sequence[Row]) -> Rows:
        """Return rows as a sampler wants them."""
        rngs = [row.rng for row in rows if row.rng is not None] or None
        replies = [row.reply.ids for row in rows]
        return Rows([row.prompt for row in rows], replies, self.stops, rngs)


class Lagging:
    """The same replies, decoded without guesses as far as somebody asked."""

    def __init__(self, rows: Sequence[Row], terms: Terms):
        self._rows, self._terms = list(rows), terms
        self._decoding: Decoding | None = None
        self._logits = np.empty(0)
        self._steps = 0

    def logits_after(self, steps: int) -> np.ndarray:
        """Return the logits (B, V) after so many new tokens, which no reply may lack yet."""
        if self._decoding is None:
            self._decoding = self._terms.start(0)
            self._logits = self._decoding.logits.copy()
        while self._steps < steps:
            # Rows that ended go on there, too, with whatever is chosen.
            tokens = self._terms.sampler.choose(self._logits, self._terms.described(self._rows))
            alive = []
            for row in self._rows:
                if len(row.reply.ids) > self._steps:
                    tokens[row.number] = row.reply.ids[self._steps]
                if row.choices is None or row.choices > self._steps + 1:
                    alive.append(row.number)
            self._logits = self._decoding.feed(tokens, alive).copy()
            self._steps += 1
        return self._logits


def too_close(scores: np.ndarray, logits: np.ndarray) -> list[bool]:
    """Tell of which rows of scores (B, V), made from logits, rounding could change the greatest."""
    first = scores.max(axis=1)
    sizes = np.maximum(first, -scores.min(axis=1))
    if scores is not logits or not np.isfinite(sizes).all():
        sizes = np.maximum(_greatest(scores), _greatest(logits))
    with np.errstate(invalid="ignore"):
        edge = first - ROUNDING * np.finfo(logits.dtype).eps * sizes
        # Not a number compares with nothing: then plain decoding has to say.
        return (np.count_nonzero(scores >= edge[:, None], axis=1) != 1).tolist()


def _greatest(scores: np.ndarray) -> np.ndarray:
    """Return the greatest finite magnitude in each row."""
    return np.max(np.abs(scores), axis=1, initial=0, where=np.isfinite(scores))
