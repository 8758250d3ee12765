"""Which tokens of a long sequence are for training, and which for validation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmlab.streams import stream


@dataclass(frozen=True)
class Part:
    """Some of the documents, as ranges of tokens."""

    ranges: NDArray[np.int64]  # first token and end of each range, (R, 2), in order
    documents: int  # how many documents they hold

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return int((self.ranges[:, 1] - self.ranges[:, 0]).sum())


def split_documents(bounds: NDArray[np.int64], fraction: float, seed: int) -> tuple[Part, Part]:
    """Return the training and the validation part.

    Parameters
    ----------
    bounds
        Where each document begins, and where the last one ends.
    fraction
        The share of tokens for validation: the end of a single document; else that of
        documents drawn by `seed`, one or more and not all.
    """
    if len(bounds) <= 2:
        length = int(bounds[-1])
        cut = int(length * (1 - fraction))
        return Part(np.array([[0, cut]]), 1), Part(np.array([[cut, length]]), 1)
    chosen = _draw(np.diff(bounds), fraction, seed)
    documents = np.stack([bounds[:-1], bounds[1:]], axis=1)
    training, validation = documents[~chosen], documents[chosen]
    return (
        Part(_merged(training), len(training)),
        Part(_merged(validation), len(validation)),
    )


def _draw(lengths: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return which documents are for validation: one or more, and not all."""
    order = stream(seed, "validation").permutation(len(lengths))
    sums = np.cumsum(lengths[order])[:-1]
    count = 1 + int(np.argmin(np.abs(sums - fraction * lengths.sum())))
    chosen = np.zeros(len(lengths), dtype=bool)
    chosen[order[:count]] = True
    return chosen


def _merged(documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ranges (R, 2) without seams between neighbours."""
    seams = np.flatnonzero(documents[1:, 0] != documents[:-1, 1])
    begins = documents[np.concatenate([[0], seams + 1]), 0]
    ends = documents[np.concatenate([seams, [len(documents) - 1]]), 1]
    return np.stack([begins, ends], axis=1)
