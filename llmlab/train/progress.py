"""Where a training stands."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """Where a training run stands; all of it is in a checkpoint.

    Attributes
    ----------
    step
        Steps done.
    updates
        Steps that changed the parameters: the others were skipped.
    epoch, index
        Epochs finished, and batches taken of the one that goes on.
    tokens
        Target tokens trained on.
    skipped, bad
        Skipped steps, all and the last in a row.
    clipped
        Steps whose gradient was longer than `clip_norm`.
    best, best_step
        Lowest validation loss and its step; None without validation.
    stale, patience
        Validations since the best, and how many of them end the run; None: no number.
    loss_epoch, loss_sum, loss_tokens
        The last epoch with a finite step, counted from 1; the loss of its steps, each times its
        tokens, and those tokens.
    """

    step: int = 0
    updates: int = 0
    epoch: int = 0
    index: int = 0
    tokens: int = 0
    skipped: int = 0
    bad: int = 0
    clipped: int = 0
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    patience: int | None = None
    loss_epoch: int | None = None
    loss_sum: float = 0.0
    loss_tokens: int = 0

    @property
    def loss(self) -> float | None:
        """The mean loss of the last epoch's target tokens; None before the first finite step."""
        return self.loss_sum / self.loss_tokens if self.loss_tokens else None

    @property
    def is_stale(self) -> bool:
        """Whether the validation loss hasn't fallen for so long that the run is over."""
        return self.patience is not None and self.stale >= self.patience

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def progress_of(meta: dict[str, Any]) -> Progress:
    """Return the progress that a checkpoint's meta holds."""
    fields = {key: meta[key] for key in Progress().to_dict() if key in meta}
    return Progress(**fields | meta["cursor"])
