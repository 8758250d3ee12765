"""The rows of metrics.jsonl."""

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmlab.atomic_write import make_folder, refused
from llmlab.errors import TrainingError
from llmlab.regular_file import to_write
from llmlab.train.fit import CALLBACKS, Callback
from llmlab.train.progress import Progress
from llmlab.train.trackers import Tracker
from llmlab.train.trainer import StepResult

log = logging.getLogger("llmlab")


class MetricsFile:
    """A metrics.jsonl, which holds only what is reproducible: equal runs have equal files.

    A resumed run goes on at `offset`: what lies behind it is cut off, and written again.
    """

    def __init__(self, path: Path, offset: int = 0):
        self.path = path
        self._beside: list[Callable[[], Any]] = []
        make_folder(path.parent)
        try:
            self._file = open(path, "ab", opener=to_write)  # noqa: SIM115 - see close
        except OSError as error:
            raise refused(path, error) from error
        if self._file.tell() < offset:
            log.warning("%s: shorter than at the checkpoint; rows before it are lost", path)
        else:
            self._file.truncate(offset)

    def write(self, row: dict[str, Any]) -> None:
        """Write a row; raise TrainingError for a value that JSON doesn't have."""
        try:
            text = json.dumps(row, allow_nan=False)
        except (ValueError, TypeError) as error:
            raise TrainingError(f"{self.path}: a callback has changed a row: {error}") from error
        try:
            self._file.write(text.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise refused(self.path, error) from error

    def sync(self) -> int:
        """Make the file durable, and what was added to it; return its length in bytes."""
        for sync in self._beside:
            sync()
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise refused(self.path, error) from error
        return self._file.tell()

    def sync_with(self, sync: Callable[[], Any]) -> None:
        """Call `sync` before each checkpoint, too: what it writes is as safe as the rows here."""
        self._beside.append(sync)

    def close(self) -> None:
        """Close it."""
        # On a full disk closing flushes again and fails again: the first error is the story.
        with suppress(OSError):
            self._file.close()


@CALLBACKS.register("metrics")
class Metrics(Callback):
    """Write a row every `log_every` steps to metrics.jsonl, and to the tracker."""

    def __init__(self, metrics: MetricsFile, tracker: Tracker, log_every: int = 1):
        self._metrics, self._every, self._tracker = metrics, log_every, tracker
        metrics.sync_with(tracker.flush)

    def on_row(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Write the row, if it is due or contains something rare."""
        if progress.step % self._every and "val_loss" not in row and not result.skipped:
            return
        self._metrics.write(row)
        numbers = {key: value for key, value in row.items() if isinstance(value, float)}
        self._tracker.log(progress.step, numbers)

    def on_end(self, progress: Progress) -> None:
        """Close file and tracker."""
        self._metrics.close()
        self._tracker.finish()
