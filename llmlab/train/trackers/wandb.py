"""Weights & Biases."""

from pathlib import Path
from typing import Any

import numpy as np

from llmlab.errors import ConfigError, TrainingError
from llmlab.train.trackers.base import TRACKERS, SentSteps, StepTracker, needed

MODES = (None, "online", "offline")


@TRACKERS.register("wandb")
class WandB(StepTracker):
    """A run at Weights & Biases, or in its files in the run's folder; needs the package wandb.

    A resume continues the run of the same id, and sends only steps after the last one sent.

    Parameters
    ----------
    project, entity
        Where the run goes; without an entity to that of the login.
    mode
        `online`, or `offline` for files that `wandb sync` sends later; None: as wandb is set.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        config: dict[str, Any],
        project: str = "llmlab",
        entity: str | None = None,
        mode: str | None = None,
    ):
        super().__init__(folder)
        if mode not in MODES:
            raise ConfigError(f"mode={mode}: must be online, offline or null")
        self._package = needed("wandb", "wandb")
        self._name, self._config = name, config
        self._options = {"project": project, "entity": entity, "mode": mode}
        self._sent = SentSteps(folder / "wandb.json")
        self._run: Any = None

    def _open(self):
        try:
            self._run = self._package.init(
                id=self._sent.id,
                name=self._name,
                dir=str(self._folder),
                config=self._config,
                resume="allow",
                **self._options,
            )
        except (self._package.Error, OSError) as error:
            raise TrainingError(
                f"tracker wandb: {error}; tracker.mode=offline needs no login"
            ) from error
        self._sent.write()
        # What the server has, unless it wasn't asked.
        return max(self._sent.step, self._run.step - 1)

    def _send(self, steps):
        self._sent.write(max(steps))  # before: a kill in between may lose a step, not double it
        for step, values in steps.items():
            self._run.log({name: self._shown(value) for name, value in values.items()}, step=step)

    def _shown(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return self._package.Image(value)
        if isinstance(value, str):
            return self._package.Table(columns=["text"], data=[[value]])
        return value

    def _close(self):
        self._run.finish()
