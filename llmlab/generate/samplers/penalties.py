"""Penalties for repetition, and biases; each step changes scores (B, V) in place.

Only a bias changes the scores of tokens that end a reply: a penalty would only make replies
longer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite

import numpy as np

from llmlab.generate.samplers.base import Rows, require

Step = Callable[[np.ndarray, Rows], None]


class Repetition:
    """Divide positive scores of tokens seen in prompt or reply by r, multiply negative ones.

    Keskar et al. 2019 (CTRL), arXiv:1909.05858.
    """

    def __init__(self, r: float):
        self.r = r

    def __call__(self, scores: np.ndarray, rows: Rows) -> None:
        """Lower the scores of tokens that were seen."""
        for row, seen in zip(scores, _seen(rows), strict=True):
            ids = np.array(sorted(set(seen) - rows.stop_ids), np.intp)
            row[ids] = np.where(row[ids] > 0, row[ids] / self.r, row[ids] * self.r)


class Occurrence:
    """Subtract `presence` + `frequency` · count from tokens that are in the reply."""

    def __init__(self, presence: float, frequency: float):
        self.presence, self.frequency = presence, frequency

    def __call__(self, scores: np.ndarray, rows: Rows) -> None:
        """Lower the scores of tokens in the reply; the prompt doesn't count."""
        for row, reply in zip(scores, rows.replies, strict=True):
            counts = np.bincount(np.array(reply, np.intp), minlength=len(row))
            row -= self.presence * (counts > 0) + self.frequency * counts


class NoRepeat:
    """Rule out tokens that would complete an n-gram of prompt or reply a second time.

    Where nothing would be left, nothing is ruled out (Paulus et al. 2017, arXiv:1705.04304).
    """

    def __init__(self, n: int):
        self.n = n

    def __call__(self, scores: np.ndarray, rows: Rows) -> None:
        """Rule out the continuations of earlier occurrences of the last n − 1 tokens."""
        width = self.n - 1
        for row, seen in zip(scores, _seen(rows), strict=True):
            tail = seen[len(seen) - width :]
            starts = range(len(seen) - width) if len(seen) >= width else ()
            ruled = {seen[i + width] for i in starts if seen[i : i + width] == tail}
            ids = np.array(sorted(ruled - rows.stop_ids), np.intp)
            before = row[ids]
            row[ids] = -np.inf
            if np.isneginf(row).all():
                row[ids] = before


class Bias:
    """Add a number to the scores of some tokens."""

    def __init__(self, biases: Mapping[int, float]):
        self.ids = np.array(list(biases), np.intp)
        self.values = np.array(list(biases.values()), float)

    def __call__(self, scores: np.ndarray, rows: Rows) -> None:
        """Add the biases."""
        scores[:, self.ids] += self.values


def penalty_steps(
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    no_repeat_ngram: int = 0,
    logit_bias: Mapping[int, float] | None = None,
    vocab_size: int | None = None,
) -> list[Step]:
    """Return the steps that are on; raise `ConfigError` for values out of range."""
    biases = dict(logit_bias or {})
    require(
        [
            (
                "repetition_penalty",
                repetition_penalty,
                lambda: isfinite(repetition_penalty) and repetition_penalty > 0,
                "more than 0 (1 is off)",
            ),
            ("presence_penalty", presence_penalty, lambda: isfinite(presence_penalty), "finite"),
            ("frequency_penalty", frequency_penalty, lambda: isfinite(frequency_penalty), "finite"),
            ("no_repeat_ngram", no_repeat_ngram, lambda: no_repeat_ngram >= 0, "at least 0 (off)"),
            *_bias_limits(biases, vocab_size),
        ]
    )
    steps: list[Step] = []
    if repetition_penalty != 1:
        steps.append(Repetition(repetition_penalty))
    if presence_penalty or frequency_penalty:
        steps.append(Occurrence(presence_penalty, frequency_penalty))
    if no_repeat_ngram:
        steps.append(NoRepeat(no_repeat_ngram))
    if biases:
        steps.append(Bias(biases))
    return steps


def _bias_limits(biases: Mapping[int, float], vocab_size: int | None) -> Iterable:
    for id, value in biases.items():
        known = isinstance(id, int) and not isinstance(id, bool)
        inside = known and id >= 0 and (vocab_size is None or id < vocab_size)
        end = "" if vocab_size is None else f" below {vocab_size}"
        number = isinstance(value, int | float) and isfinite(value)
        yield f"logit_bias.{id}", value, lambda inside=inside: inside, f"for a token id{end}"
        yield f"logit_bias.{id}", value, lambda number=number: number, "a finite number"


def _seen(rows: Rows) -> list[list[int]]:
    pairs: Iterable[tuple[Sequence[int], Sequence[int]]] = zip(
        rows.prompts, rows.replies, strict=True
    )
    return [[*prompt, *reply] for prompt, reply in pairs]
