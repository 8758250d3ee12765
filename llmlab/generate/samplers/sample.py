"""Draw from the distribution, after the steps that shape it."""

from collections.abc import Sequence
from math import isfinite

import numpy as np

from llmlab.generate.samplers.base import SAMPLERS, Rows, Sampler, require, stop_texts
from llmlab.generate.samplers.filters import MinP, Temperature, TopK, TopP, probabilities
from llmlab.generate.samplers.penalties import Step, penalty_steps


class Pipeline(Sampler):
    """Apply steps to the scores in order, then draw, or take the greatest.

    The steps are only those that are on: an option that is off costs nothing per token.
    """

    def __init__(self, steps: Sequence[Step], draws: bool, num_samples: int, stop: tuple[str, ...]):
        self.steps, self.draws = tuple(steps), draws
        self.num_samples, self.stop = num_samples, stop

    def choose(self, logits, rows):
        """Return one id for each row."""
        scores = self.scores(logits, rows)
        if scores is not None:
            return np.argmax(scores, axis=1)
        if rows.rngs is None or len(rows.rngs) != len(logits):
            raise ValueError("a sampler that draws needs a generator for each reply: rngs=[...]")
        return draw(self.distribution(logits, rows), rows.rngs)

    def scores(self, logits, rows):
        """Return the scores after all steps if the greatest is taken."""
        if self.draws:
            return None
        return self._shaped(logits, rows) if self.steps else logits

    def distribution(self, logits: np.ndarray, rows: Rows) -> np.ndarray:
        """Return the probabilities (B, V) that are drawn from."""
        return probabilities(self._shaped(logits, rows))

    def _shaped(self, logits: np.ndarray, rows: Rows) -> np.ndarray:
        scores = logits.astype(np.float64)
        with np.errstate(invalid="ignore"):  # a network that overflows gives a poor token
            for step in self.steps:
                step(scores, rows)
        return scores


def draw(p: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
    """Return an id for each row of probabilities (B, V), using one number of each generator."""
    sums = np.cumsum(p, axis=1)
    chosen = np.empty(len(p), np.intp)
    for row, (total, rng) in enumerate(zip(sums, rngs, strict=True)):
        # The first id whose sum is greater: never one of probability 0, rounding or not.
        chosen[row] = np.searchsorted(total, rng.random() * total[-1], side="right")
    return np.minimum(chosen, p.shape[1] - 1)


@SAMPLERS.register("sample")
def sample(
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    no_repeat_ngram: int = 0,
    logit_bias: dict[int, float] | None = None,
    num_samples: int = 1,
    stop: list[str] | str | None = None,
    vocab_size: int | None = None,
) -> Pipeline:
    """Draw each token from the distribution, shaped as the arguments say.

    The steps, in this order, each on what the one before it left: repetition, presence and
    frequency penalty, n-grams, bias, temperature, top-k, top-p, min-p.

    Parameters
    ----------
    temperature
        Divides the scores; 0 takes the most probable token.
    top_k
        How many tokens are kept; 0: all.
    top_p
        The most probable tokens that reach this probability together are kept; 1: all.
    min_p
        Tokens below this share of the greatest probability are dropped; 0: none.
    repetition_penalty
        Divides (multiplies, below 0) the scores of tokens in prompt and reply; 1: off.
    presence_penalty, frequency_penalty
        Subtracted once, and for each occurrence, from the tokens of the reply.
    no_repeat_ngram
        No n-gram of this length twice; 0: off.
    logit_bias
        Numbers added to the scores of token ids.
    num_samples
        Replies to each prompt, drawn in one batch.
    stop
        Texts before which a reply ends.
    """
    _check(temperature, top_k, top_p, min_p, num_samples)
    steps = penalty_steps(
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        no_repeat_ngram,
        logit_bias,
        vocab_size,
    )
    if temperature:
        steps += [Temperature(temperature)] if temperature != 1 else []
        steps += [TopK(top_k)] if top_k else []
        steps += [TopP(top_p)] if top_p < 1 else []
        steps += [MinP(min_p)] if min_p else []
    return Pipeline(steps, bool(temperature), num_samples, stop_texts(stop))


def _check(temperature: float, top_k: int, top_p: float, min_p: float, num_samples: int) -> None:
    """Refuse arguments that are out of their ranges."""
    zero = "a finite number of at least 0 (0 is greedy)"
    require(
        [
            ("temperature", temperature, lambda: isfinite(temperature) and temperature >= 0, zero),
            ("top_k", top_k, lambda: top_k >= 0, "at least 0 (0 is off)"),
            ("top_p", top_p, lambda: 0 < top_p <= 1, "more than 0 and at most 1 (1 is off)"),
            ("min_p", min_p, lambda: 0 <= min_p <= 1, "at least 0 (off) and at most 1"),
            ("num_samples", num_samples, lambda: num_samples >= 1, "at least 1"),
        ]
    )
