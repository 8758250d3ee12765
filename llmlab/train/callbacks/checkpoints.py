"""The states that a run can be continued from."""

from math import ceil
from pathlib import Path
from typing import Any

from llmlab.checkpoints import CHECKPOINTS, CheckpointFolder
from llmlab.errors import Stopped
from llmlab.signals import Signals
from llmlab.train.callbacks.metrics import MetricsFile
from llmlab.train.fit import CALLBACKS, Callback
from llmlab.train.progress import Progress
from llmlab.train.trainer import StepResult, Trainer


@CALLBACKS.register("checkpoints")
class Checkpoints(Callback):
    """Save at the start, now and then, at the best validation, at the end and at a signal."""

    def __init__(
        self,
        folder: Path,  # of the stage
        trainer: Trainer,
        metrics: MetricsFile,
        meta: dict[str, Any],  # what every checkpoint of the run says besides its progress
        steps: int,
        signals: Signals,
        command: str,  # what a user types to continue, for the message of a stop
        save_every: int | None = None,  # steps between checkpoints; None: ten in a run
        keep: int | str = 2,
    ):
        self._folder = CheckpointFolder(folder / CHECKPOINTS, keep)
        self._trainer, self._metrics = trainer, metrics
        self._meta, self._last = meta, steps
        self._every = save_every or max(1, ceil(steps / 10))
        self._signals, self._command = signals, command

    def on_start(self, progress: Progress) -> None:
        """Save the first state if there is none, so that a run can be continued from its start."""
        if not self._folder.steps():
            self.save(progress)

    def on_row(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Save when it is time; raise `Stopped` if a signal asked for the end."""
        ended = progress.step == self._last or progress.is_stale
        stopping = self._signals.received is not None and not ended
        best = "val_loss" in row and progress.best_step == progress.step
        due = progress.step % self._every == 0 or ended
        if due or best or stopping:
            self.save(progress, best)
        if stopping:
            assert self._signals.received is not None
            raise Stopped(
                f"stopped by {self._signals.received.name}, saved at step {progress.step} of "
                f"{self._last}; continue with: {self._command}",
                self._signals.exit_code,
            )

    def save(self, progress: Progress, best: bool = False) -> Path:
        """Save the state; metrics first, so that no row before a checkpoint can be lost."""
        state = progress.to_dict()
        cursor = {"epoch": state.pop("epoch"), "index": state.pop("index")}
        meta = self._meta | state | {"cursor": cursor, "metrics_offset": self._metrics.sync()}
        return self._folder.save(progress.step, self._trainer.arrays(), meta, best)
