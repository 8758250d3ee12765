"""Beam search: the reply of greatest probability that a bounded search finds."""

from dataclasses import dataclass
from math import isfinite

import numpy as np

from llmlab.generate.decoding import Decoding, Reply
from llmlab.generate.samplers.base import SAMPLERS, Rows, Search, require, stop_texts
from llmlab.generate.samplers.penalties import penalty_steps


@dataclass(frozen=True)
class _Found:
    """A reply that ended, with its score."""

    score: float
    reply: Reply


@SAMPLERS.register("beam")
class Beam(Search):
    """Follow the most probable beginnings, and take the best whole reply.

    A reply's score is its log probability divided by its length to the power of
    `length_penalty`; the length counts the token that ends it. A beginning that the search
    leaves is never looked at again, so with too few beams the best reply can be missed. (Wu et
    al. 2016, arXiv:1609.08144, §7, take (5 + length) / 6 to that power.)

    Parameters
    ----------
    num_beams
        Beginnings that are followed.
    length_penalty
        0: the most probable reply, often a short one; 1: the greatest mean; more favours
        longer replies.
    repetition_penalty, presence_penalty, frequency_penalty, no_repeat_ngram, logit_bias
        As in the sampler `sample`; they change the scores that are searched.
    num_samples
        How many replies each prompt gets, the best first.
    stop
        Texts before which a reply ends; the search itself doesn't know of them.
    """

    def __init__(
        self,
        num_beams: int = 4,
        length_penalty: float = 1.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        no_repeat_ngram: int = 0,
        logit_bias: dict[int, float] | None = None,
        num_samples: int = 1,
        stop: list[str] | str | None = None,
        vocab_size: int | None = None,
    ):
        within = f"at least 1 and at most num_beams={num_beams}"
        require(
            [
                ("num_beams", num_beams, lambda: num_beams >= 1, "at least 1"),
                ("num_samples", num_samples, lambda: 1 <= num_samples <= num_beams, within),
                ("length_penalty", length_penalty, lambda: isfinite(length_penalty), "finite"),
            ]
        )
        self.num_beams, self.length_penalty = num_beams, length_penalty
        self.num_samples, self.stop = num_samples, stop_texts(stop)
        self._steps = penalty_steps(
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            no_repeat_ngram,
            logit_bias,
            vocab_size,
        )

    def search(self, decoding, stop_ids):
        """Return the best replies to one prompt."""
        prompt = decoding.prompts[0]
        beams: list[list[int]] = [[]]
        totals = np.zeros(1)
        found: list[_Found] = []
        for length in range(1, decoding.limit + 1):
            rows = Rows([prompt] * len(beams), beams, stop_ids)
            parents, tokens, sums = self._best(decoding.logits, rows, totals)
            going = []
            for rank, (parent, token, total) in enumerate(zip(parents, tokens, sums, strict=True)):
                if token not in stop_ids:
                    going.append(rank)
                elif rank < self.num_beams:
                    score = self._score(total, length)
                    found.append(_Found(score, Reply(beams[parent], "stop")))
            going = going[: self.num_beams]
            beams = [[*beams[parents[rank]], int(tokens[rank])] for rank in going]
            totals, parents, tokens = sums[going], parents[going], tokens[going]
            found = sorted(found, key=lambda f: -f.score)[: self.num_beams]
            if not beams or self._is_over(found, totals, length, decoding):
                break
            if length == decoding.limit or decoding.is_full(0):
                reason = "context" if decoding.is_full(0) else "length"
                found += [
                    _Found(self._score(total, length), Reply(beam, reason))
                    for beam, total in zip(beams, totals, strict=True)
                ]
                break
            decoding.select(parents)
            decoding.feed(tokens)
        best = [f.reply for f in sorted(found, key=lambda f: -f.score)[: self.num_samples]]
        return best + [Reply() for _ in range(self.num_samples - len(best))]

    def _best(
        self, logits: np.ndarray, rows: Rows, totals: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return beam, token and sum of the best continuations.

        As many as are sure to leave `num_beams` that don't end.
        """
        scores = logits.astype(np.float64)
        with np.errstate(invalid="ignore"):
            for step in self._steps:
                step(scores, rows)
            scores -= scores.max(axis=1, keepdims=True)
            scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        sums = (totals[:, None] + scores).reshape(-1)
        count = min(self.num_beams * (1 + len(rows.stop_ids)), len(sums))
        place = len(sums) - count
        chosen = np.flatnonzero(sums >= np.partition(sums, place)[place])
        chosen = chosen[np.argsort(-sums[chosen], kind="stable")][:count]
        chosen = chosen[np.isfinite(sums[chosen])]
        return *np.divmod(chosen, logits.shape[1]), sums[chosen]

    def _score(self, total: float, length: int) -> float:
        return float(total) / length**self.length_penalty

    def _is_over(
        self, found: list[_Found], totals: np.ndarray, length: int, decoding: Decoding
    ) -> bool:
        """Tell whether no beam can still end among the best `num_samples`."""
        if len(found) < self.num_samples:
            return False
        # Sums only fall; what a falling sum gains by its length is greatest at one of the ends.
        best, longest = totals.max(), decoding.limit
        bound = max(self._score(best, n) for n in (min(length + 1, longest), longest))
        return bound <= found[self.num_samples - 1].score
