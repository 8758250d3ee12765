"""What watches a training run: validation, metrics, checkpoints, the progress bar."""

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from llmlab.atomic_write import make_folder, refused
from llmlab.checkpoints import CheckpointFolder
from llmlab.errors import Stopped
from llmlab.signals import Signals
from llmlab.train.fit import Callback, Progress
from llmlab.train.trackers import Tracker
from llmlab.train.trainer import StepResult, Trainer

log = logging.getLogger("llmlab")
LOG_SECONDS = 30.0  # between lines where no progress bar can be drawn


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


class Metrics(Callback):
    """Write a JSON line every `every` steps to `metrics.jsonl`, and to the tracker.

    The file holds only what is reproducible, so that equal runs have equal files.

    Parameters
    ----------
    offset
        Where a resumed run goes on: what lies behind it is cut off, and written again.
    """

    def __init__(self, path: Path, every: int, tracker: Tracker, offset: int = 0):
        self.path, self._every, self._tracker = path, every, tracker
        make_folder(path.parent)
        try:
            self._file = open(path, "ab", opener=_not_following)  # noqa: SIM115 - see on_end
        except OSError as error:
            raise refused(path, error) from error
        if self._file.tell() < offset:
            log.warning("%s: shorter than at the checkpoint; rows before it are lost", path)
        else:
            self._file.truncate(offset)

    def on_step(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Write the row, if it is its turn or something rare is in it."""
        if progress.step % self._every and "val_loss" not in row and not result.skipped:
            return
        try:
            self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise refused(self.path, error) from error
        numbers = {k: v for k, v in row.items() if isinstance(v, float)}
        self._tracker.log(progress.step, numbers)

    def sync(self) -> int:
        """Make the file durable and return its length in bytes."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise refused(self.path, error) from error
        return self._file.tell()

    def on_end(self, progress: Progress) -> None:
        """Close file and tracker."""
        # On a full disk closing flushes again and fails again: the first error is the story.
        with suppress(OSError):
            self._file.close()
        self._tracker.finish()


class Checkpoints(Callback):
    """Save at the start, every `every` steps, at the best validation, at the end and at a signal.

    Parameters
    ----------
    meta
        What every checkpoint of the run says besides its progress.
    command
        What a user types to continue, for the message of a stop.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        trainer: Trainer,
        metrics: Metrics,
        meta: dict[str, Any],
        *,
        every: int,
        last: int,
        signals: Signals,
        command: str,
    ):
        self._folder, self._trainer, self._metrics = folder, trainer, metrics
        self._meta, self._every, self._last = meta, every, last
        self._signals, self._command = signals, command

    def on_start(self, progress: Progress) -> None:
        """Save the first state if there is none, so that a run can be continued from its start."""
        if not self._folder.steps():
            self.save(progress)

    def on_step(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
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


def _not_following(path: str, flags: int) -> int:
    """Open for writing, but not through a symbolic link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def progress_of(meta: dict[str, Any]) -> Progress:
    """Return the progress that a checkpoint's meta holds."""
    fields = {key: meta[key] for key in Progress().to_dict() if key in meta}
    return Progress(**fields | meta["cursor"])


# Loss, perplexity and speed are to fit into 80 columns; the bar takes what they leave.
BAR = "{desc} {percentage:3.0f}%|{bar}|{n_fmt}/{total_fmt} <{remaining}{postfix}"


class ProgressBar(Callback):
    """Show loss, perplexity and speed; a line every half minute where no bar can be drawn."""

    def __init__(self, stage: str, steps: int, bar: bool = True):
        self._stage, self._steps, self._bar = stage, steps, bar
        self._smooth: float | None = None
        self._validation: float | None = None
        self._tokens = 0
        self._tqdm: Any = None
        self._shown = self._began = time.monotonic()

    def on_start(self, progress: Progress) -> None:
        """Draw the bar."""
        tqdm.monitor_interval = 0  # its thread would only watch, and threads make forks unsafe
        disable = None if self._bar else True
        self._tqdm = tqdm(
            total=self._steps,
            initial=progress.step,
            desc=self._stage,
            disable=disable,
            dynamic_ncols=True,
            bar_format=BAR,
            mininterval=0.2,
        )
        self._shown = self._began = time.monotonic()

    def on_step(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Update the bar."""
        self._tokens += round(result.tokens)
        self._validation = row.get("val_loss", self._validation)
        if not result.skipped:
            old = result.loss if self._smooth is None else self._smooth
            self._smooth = old + 0.05 * (result.loss - old)
        now = time.monotonic()
        if not self._tqdm.disable:
            if now - self._shown > 0.2:
                self._tqdm.set_postfix_str(self._text(progress, now), refresh=False)
                self._shown = now
            self._tqdm.update()
        elif now - self._shown > LOG_SECONDS:
            log.info("%s step %d/%d %s", *self._place(progress), self._text(progress, now))
            self._shown = now

    def on_end(self, progress: Progress) -> None:
        """Leave the last numbers on the screen."""
        if self._tqdm is None:
            return
        now = time.monotonic()
        if not self._tqdm.disable:
            self._tqdm.set_postfix_str(self._text(progress, now))
        self._tqdm.close()

    def _place(self, progress: Progress) -> tuple[str, int, int]:
        return self._stage, progress.step, self._steps

    def _text(self, progress: Progress, now: float) -> str:
        loss = self._smooth
        speed = self._tokens / max(now - self._began, 1e-9)
        text = f"{speed:,.0f} tokens/s"
        if loss is not None:
            perplexity = exp(min(loss, 700))
            shown = f"{perplexity:,.1f}" if perplexity < 1e6 else f"{perplexity:.2e}"
            text = f"loss {loss:.3f}, perplexity {shown}, {text}"
        if self._validation is not None:
            text += f", validation {self._validation:.4f}"
        return text + (f", {progress.skipped} skipped" if progress.skipped else "")
