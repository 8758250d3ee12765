"""The loss on text that is not trained on."""

from collections.abc import Callable
from typing import Any

import numpy as np

from llmlab.train.fit import CALLBACKS, Callback
from llmlab.train.progress import Progress
from llmlab.train.trainer import StepResult

FEWEST = 10  # validations in a run, unless `eval_every` says otherwise


def validation_every(steps: int, steps_of_epoch: int) -> int:
    """Return the steps between validations: an epoch, or less for at least ten in `steps`."""
    return max(1, min(steps_of_epoch, steps // FEWEST))


class Validation(Callback):
    """Measure the validation loss every `every` steps and at the last one.

    `measure` returns the mean loss (nats). The lowest finite one is remembered as the best.
    """

    def __init__(self, measure: Callable[[], float], every: int, last: int):
        self._measure, self._every, self._last = measure, every, last

    def on_step(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Add `val_loss` to the row."""
        if progress.step % self._every and progress.step != self._last:
            return
        loss = self._measure()
        row["val_loss"] = loss if np.isfinite(loss) else None
        if np.isfinite(loss) and (progress.best is None or loss < progress.best):
            progress.best, progress.best_step = loss, progress.step


@CALLBACKS.register("validation")
def validation(
    measure: Callable[[], float] | None,
    steps: int,
    steps_of_epoch: int,
    eval_every: int | None = None,
) -> Validation | None:
    """Measure the validation loss, where text is kept back for it.

    Parameters
    ----------
    eval_every
        Steps between measurements; None: an epoch, or less for at least ten in a run.
    """
    if measure is None:
        return None
    return Validation(measure, eval_every or validation_every(steps, steps_of_epoch), steps)
