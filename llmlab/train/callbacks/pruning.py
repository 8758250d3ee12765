"""The end of a trial that a search has given up."""

import json
from math import inf
from pathlib import Path
from typing import Any, Protocol

from llmlab.errors import ConfigError, Pruned
from llmlab.train.fit import CALLBACKS, Callback
from llmlab.train.progress import Progress
from llmlab.train.trainer import StepResult


class Trial(Protocol):
    """What a run needs of the search that it is a trial of."""

    prunes: bool

    def report(self, index: int, value: float | None, last: bool) -> bool:
        """Take the loss of validation `index`, from 1; return whether to give the trial up."""
        ...


class Pruning(Callback):
    """Tell a search each validation loss, and end the run when it gives the trial up.

    It stands after the callbacks that write, so that the run can be continued.
    """

    def __init__(self, trial: Trial, folder: Path, stage: str, steps: int):
        self._trial, self._stage, self._last = trial, stage, steps
        self._metrics = folder / "metrics.jsonl"
        self._count = 0  # validations so far

    def on_start(self, progress: Progress) -> None:
        """Report what was validated before; a stop may have come before its report."""
        for row in validations(self._metrics, progress.step):
            self._report(row, progress, row["step"] >= self._last)

    def on_row(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Report a validation."""
        if "val_loss" not in row:
            return
        self._report(row, progress, progress.step >= self._last or progress.is_stale)

    def _report(self, row: dict[str, Any], progress: Progress, last: bool) -> None:
        self._count += 1
        if self._trial.report(self._count, row["val_loss"], last):
            figures = {"val_loss": row["val_loss"], "steps": progress.step}
            said = f"given up by the search at step {row['step']} of {self._last}"
            raise Pruned(said, figures | {"tokens": progress.tokens})


def validations(metrics: Path, step: float = inf) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl that have a validation, up to a step."""
    if not metrics.exists():
        return []
    rows = map(json.loads, metrics.read_text("utf-8").splitlines())
    return [row for row in rows if "val_loss" in row and row["step"] <= step]


@CALLBACKS.register("pruning")
def pruning(
    trial: Trial | None, folder: Path, stage: str, steps: int, measure: Any = None
) -> Pruning | None:
    """Feed a search with validation losses; nothing in a run that is no trial."""
    if trial is None:
        return None
    if measure is None and trial.prunes:
        raise ConfigError(
            f"search.pruner: needs validations, and data.{stage} keeps no text for them; set "
            f"data.{stage}.val_fraction=0.1"
        )
    return None if measure is None else Pruning(trial, folder, stage, steps)
