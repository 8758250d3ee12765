"""What a training step takes: token ids, targets and how much each target counts."""

from dataclasses import dataclass, field

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

    Attributes
    ----------
    tokens
        The sum of the weights: how many targets count.
    """

    inputs: NDArray[np.intp]
    targets: NDArray[np.intp]
    weights: NDArray[np.float32]
    segments: NDArray[np.intp] | None = None
    positions: NDArray[np.intp] | None = None
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", float(self.weights.sum(dtype=np.float64)))
