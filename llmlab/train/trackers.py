"""Trackers: where metrics go besides the run's own folder."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from llmlab.errors import ConfigError
from llmlab.registry import Registry

TRACKERS = Registry("tracker", ("folder", "name"))


class Tracker(ABC):
    """Take the metrics of a run; started by its constructor, at step 0 or at a resume."""

    @abstractmethod
    def log(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of one step."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is left and close; also called after an error."""


@TRACKERS.register("none")
class NoTracker(Tracker):
    """No tracker; metrics.jsonl is always written."""

    def log(self, step, values):
        """Do nothing."""

    def finish(self):
        """Do nothing."""


@TRACKERS.register("tensorboard")
class TensorBoard(Tracker):
    """Event files in the run's folder, for TensorBoard; needs the package tensorboardX."""

    def __init__(self, folder: Path):
        try:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError(
                "tracker tensorboard: needs a package, install it with: pip install tensorboardX"
            ) from error
        self._open, self._folder = SummaryWriter, folder / "tensorboard"
        self._writer: Any = None

    def log(self, step, values):
        """Write each value under its name."""
        if self._writer is None:
            # A resumed run does the steps after its checkpoint again; their first rows are dropped.
            self._writer = self._open(str(self._folder), purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self):
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
