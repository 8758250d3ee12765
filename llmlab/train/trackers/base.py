"""What a tracker is, and how values are sent in whole steps, none twice."""

import importlib
import json
import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.atomic_write import replace_text
from llmlab.errors import MissingPackage
from llmlab.registry import Registry
from llmlab.train.rows import read_rows

log = logging.getLogger("llmlab")

# The folder of the stage, the run's name, and its configuration as plain values.
TRACKERS = Registry("tracker", ("folder", "name", "config"))


class Tracker(ABC):
    """Take the metrics of a run; started by its constructor, at step 0 or at a resume.

    A resumed run makes the steps after its checkpoint again, with the same numbers: a tracker
    keeps the old ones or the new ones, not both.
    """

    @abstractmethod
    def log(self, step: int, values: dict[str, float]) -> None:
        """Take numbers of one step; a step may have several calls, and steps don't fall."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is left and close; also called after an error."""

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Take a picture, (H, W, 3) bytes; by default it is left out."""
        return

    def text(self, step: int, name: str, text: str) -> None:
        """Take a text, such as a sample; by default it is left out."""
        return

    def flush(self) -> None:
        """Send all that was taken: a checkpoint is about to be saved, from which steps go on."""
        return


@TRACKERS.register("none")
class NoTracker(Tracker):
    """No tracker; metrics.jsonl is always written."""

    def log(self, step, values):
        """Do nothing."""

    def finish(self):
        """Do nothing."""


class StepTracker(Tracker):
    """Collect what belongs to a step, and send whole steps after the last one that arrived.

    So what a killed run has sent isn't sent again by its resume. What was lost on its way is taken
    from metrics.jsonl. The tracker's run begins with the first value, so a run without a step
    leaves nothing behind.
    """

    MOST = 100  # steps that are kept before they are sent

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._steps: dict[int, dict[str, Any]] = {}
        self._last: int | None = None  # the last step that was sent by an earlier process
        self._is_open = False

    @abstractmethod
    def _open(self) -> int:
        """Begin or continue the tracker's run; return the last step that arrived, 0 for none."""

    @abstractmethod
    def _send(self, steps: dict[int, dict[str, Any]]) -> None:
        """Send values by step: numbers, `np.ndarray` pictures and texts."""

    @abstractmethod
    def _close(self) -> None:
        """End the tracker's run."""

    def log(self, step, values):
        """Keep the values until their step is over."""
        self._take(step, values)

    def picture(self, step, name, pixels):
        """Keep the picture until its step is over."""
        self._take(step, {name: pixels})

    def text(self, step, name, text):
        """Keep the text until its step is over."""
        self._take(step, {name: text})

    def flush(self):
        """Send what there is."""
        if self._steps:
            steps, self._steps = self._steps, {}
            self._send(steps)

    def finish(self):
        """Send what there is and close."""
        try:
            self.flush()
        finally:
            if self._is_open:
                self._is_open = False
                self._close()

    def _take(self, step: int, values: dict[str, Any]) -> None:
        if not self._is_open:
            self._last = self._open()
            self._is_open = True
            for row in read_rows(self._folder / "metrics.jsonl"):
                if self._last < row["step"] < step:
                    numbers = {key: value for key, value in row.items() if type(value) is float}
                    self._take(row["step"], numbers)
        if step <= (self._last or 0):
            return
        if step not in self._steps and len(self._steps) >= self.MOST:
            self.flush()
        self._steps.setdefault(step, {}).update(values)


def kept_id(path: Path) -> str | None:
    """Return the id of a run at a tracker, from a file of the run's folder; None for a new one."""
    try:
        return str(json.loads(path.read_bytes())["id"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        log.warning("%s: damaged; the tracker begins a new run", path)
        return None


def keep_id(path: Path, name: str) -> None:
    """Write down the id of a run at a tracker, for `kept_id`."""
    replace_text(path, json.dumps({"id": name}) + "\n")


def needed(module: str, tracker: str) -> Any:
    """Return a module that an extra installs, or say which."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise MissingPackage(f"tracker={tracker}", package, tracker) from error
