"""How the next token is chosen from the logits."""

from abc import ABC, abstractmethod

import numpy as np

from llmlab.registry import Registry

SAMPLERS = Registry("sampler")


class Sampler(ABC):
    """Choose one token for each row."""

    @abstractmethod
    def choose(self, logits: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Return ids (B,) for logits (B, V)."""


@SAMPLERS.register("greedy")
class Greedy(Sampler):
    """Take the most probable token; of equal ones the first."""

    def choose(self, logits, rng):
        """Return the argmax of each row."""
        return np.argmax(logits, axis=-1)
