"""The end of a run whose validation loss no longer falls."""

import logging
from typing import Any

from llmlab.train.fit import CALLBACKS, Callback
from llmlab.train.progress import Progress
from llmlab.train.trainer import StepResult

log = logging.getLogger("llmlab")


class EarlyStopping(Callback):
    """End training after `patience` validations in a row without a new best.

    It stands after the validation and before the callback that saves. The count is part of the
    progress, so a continued run ends where an uninterrupted one would have.
    """

    def __init__(self, patience: int):
        self._patience = patience

    def on_start(self, progress: Progress) -> None:
        """Set the limit in the progress: a run may be continued with another one."""
        progress.patience = self._patience

    def on_step(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Count a validation; one that isn't finite counts as no improvement."""
        if "val_loss" not in row:
            return
        progress.stale = 0 if progress.best_step == progress.step else progress.stale + 1
        if progress.is_stale:
            best = ""
            if progress.best is not None:
                best = f"; the best was {progress.best:.4f} at step {progress.best_step}"
            ended = f"ended at step {progress.step}{best}"
            log.info("no lower validation loss in %d validations: %s", progress.stale, ended)


@CALLBACKS.register("early_stopping")
def early_stopping(patience: int | None = None) -> EarlyStopping | None:
    """End training after `patience` validations without a new best; None: never."""
    return None if patience is None else EarlyStopping(patience)
