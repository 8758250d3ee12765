"""Trackio, whose runs are in a database of its own in the user's folder."""

import contextlib
import secrets
import sys
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.train.trackers.base import TRACKERS, StepTracker, keep_id, kept_id, needed


@TRACKERS.register("trackio")
class Trackio(StepTracker):
    """A run of a Trackio project, shown by `trackio show`; needs the package trackio.

    Trackio itself would keep steps that are sent twice: a resume asks for the last one that the
    run has, and sends only those after it.

    Parameters
    ----------
    project
        Where the run goes; TRACKIO_DIR in the environment says where projects are.
    """

    def __init__(self, folder: Path, name: str, config: dict[str, Any], project: str = "llmlab"):
        super().__init__(folder)
        self._package = needed("trackio", "trackio")
        self._config, self._project, self._name = config, project, name

    def _open(self):
        storage = needed("trackio.sqlite_storage", "trackio").SQLiteStorage
        path = self._folder / "trackio.json"
        # Runs of one name would become one.
        own = kept_id(path) or f"{self._name}-{secrets.token_hex(2)}"
        known = storage.get_max_step_for_run(self._project, own)
        keep_id(path, own)
        with contextlib.redirect_stdout(sys.stderr):
            self._package.init(
                self._project,
                own,
                config=self._config,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return known or 0  # what it was given last may have been lost with the process

    def _send(self, steps):
        for step, values in steps.items():
            shown = {name: self._shown(value) for name, value in values.items()}
            self._package.log(shown, step=step)

    def _shown(self, value: Any) -> Any:
        return self._package.Image(value) if isinstance(value, np.ndarray) else value

    def _close(self):
        with contextlib.redirect_stdout(sys.stderr):
            self._package.finish()
