"""Steps that shape the distribution: each changes float64 scores (B, V) in place.

A score of −inf is a token that can't be chosen. Each step sees the tokens that the steps
before it left, so top-p after top-k is of the k tokens' own distribution.
"""

from math import log

import numpy as np

from llmlab.generate.samplers.base import Rows


class Temperature:
    """Divide by T: below 1 sharper, above 1 flatter (p ∝ exp(score / T))."""

    def __init__(self, temperature: float):
        self.temperature = temperature

    def __call__(self, scores: np.ndarray, rows: Rows) -> None:
        """Scale the scores, the greatest first moved to 0, so that a tiny T can't overflow."""
        scores -= scores.max(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            scores /= self.temperature


class TopK:
    """Keep the k most probable tokens, and those equal to the last (Fan et al. 2018).

    arXiv:1805.04833.
    """

    def __init__(self, k: int):
        self.k = k

    def __call__(self, scores: np.ndarray, rows: Rows) -> None:
        """Rule out tokens less probable than the k-th."""
        place = scores.shape[1] - self.k
        if place > 0:
            last = np.partition(scores, place, axis=1)[:, place, None]
            scores[scores < last] = -np.inf


class TopP:
    """Keep the fewest most probable tokens whose probabilities reach p (Holtzman et al. 2020).

    Of equally probable tokens the first ones are kept. arXiv:1904.09751.
    """

    def __init__(self, p: float):
        self.p = p

    def __call__(self, scores: np.ndarray, rows: Rows) -> None:
        """Rule out every token before which p is reached."""
        order = np.argsort(-scores, axis=1, kind="stable")
        falling = probabilities(np.take_along_axis(scores, order, axis=1))
        before = np.cumsum(falling, axis=1) - falling
        kept = np.empty(scores.shape, bool)
        np.put_along_axis(kept, order, before < self.p, axis=1)
        scores[~kept] = -np.inf


class MinP:
    """Keep tokens with at least `share` times the greatest probability (Nguyen et al. 2024).

    arXiv:2407.01082.
    """

    def __init__(self, share: float):
        self.margin = log(share)

    def __call__(self, scores: np.ndarray, rows: Rows) -> None:
        """Rule out tokens too far below the most probable one."""
        scores[scores < scores.max(axis=1, keepdims=True) + self.margin] = -np.inf


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the softmax of each row of scores (B, V)."""
    with np.errstate(invalid="ignore"):
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
    return p
