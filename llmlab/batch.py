"""What a training step takes: token ids, targets and how much each target counts."""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, padded on the right to one length.

    Legend: B rows, T time.

    Parameters
    ----------
    inputs
        (B, T) ids; padding is id 0.
    targets
        (B, T) the id that follows each input; padding is id 0.
    weights
        (B, T) float32: how much each target counts in the loss; padding is 0.
    segments
        (B, T) number of the sample within its row, when several are packed into one.
    positions
        (B, T) position of each input within its sample, when that is not its column.
    """

    inputs: NDArray[np.intp]
    targets: NDArray[np.intp]
    weights: NDArray[np.float32]
    segments: NDArray[np.intp] | None = None
    positions: NDArray[np.intp] | None = None

    @cached_property
    def tokens(self) -> float:
        """The sum of the weights: how many targets count."""
        return float(self.weights.sum(dtype=np.float64))

    def lengths(self) -> NDArray[np.intp]:
        """Return the length of each row up to its last target that counts, at least 1, (B,)."""
        used = self.weights != 0
        lengths = used.shape[1] - np.argmax(used[:, ::-1], axis=1)
        lengths[~used.any(axis=1)] = 1
        return lengths

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that are there, by the names of the fields."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: array for name, array in named if array is not None}

    def rows(self, index: NDArray[np.intp], time: int) -> "Batch":
        """Return some rows, cut to their first `time` columns."""
        return Batch(
            **{
                name: np.ascontiguousarray(array[index, :time])
                for name, array in self.arrays().items()
            }
        )
