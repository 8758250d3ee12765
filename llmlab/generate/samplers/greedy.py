"""The most probable token, always."""

import numpy as np

from llmlab.generate.samplers.base import SAMPLERS, Sampler, stop_texts


@SAMPLERS.register("greedy")
class Greedy(Sampler):
    """Take the most probable token; of equal ones the first.

    Parameters
    ----------
    stop
        Texts before which a reply ends.
    """

    def __init__(self, stop: list[str] | str | None = None):
        self.stop = stop_texts(stop)

    def choose(self, logits, rows):
        """Return the argmax of each row."""
        return np.argmax(logits, axis=-1)

    def scores(self, logits, rows):
        """Return the logits."""
        return logits
