"""MLflow."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.named import flat
from llmlab.train.trackers.base import TRACKERS, StepTracker, keep_id, kept_id, needed

_MOST = 1000  # values that MLflow takes at once
_LONGEST = 500  # characters of a parameter


@TRACKERS.register("mlflow")
class MLflow(StepTracker):
    """A run of an MLflow experiment; needs the package mlflow.

    MLflow itself would keep steps that are sent twice: a resume asks for the last one that the
    run has, and sends only those after it.

    Parameters
    ----------
    experiment
        Where the run goes.
    uri
        The server or database, such as `sqlite:///mlflow.db`; None: MLFLOW_TRACKING_URI, or
        MLflow's own default.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        config: dict[str, Any],
        experiment: str = "llmlab",
        uri: str | None = None,
    ):
        super().__init__(folder)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        package = needed("mlflow", "mlflow")
        self._client: Any = package.MlflowClient(tracking_uri=uri)
        self._metric, self._param = package.entities.Metric, package.entities.Param
        self._name, self._config = name, config
        self._experiment = experiment
        self._id = ""

    def _open(self):
        path = self._folder / "mlflow.json"
        known = kept_id(path)
        if known is not None:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            history = self._client.get_metric_history(known, "lr")  # which every row has
            return max((each.step for each in history), default=0)
        found = self._client.get_experiment_by_name(self._experiment)
        where = found.experiment_id if found else self._client.create_experiment(self._experiment)
        self._id = self._client.create_run(where, run_name=self._name).info.run_id
        params = [self._param(key, str(value)[:_LONGEST]) for key, value in flat(self._config)]
        for first in range(0, len(params), 100):
            self._client.log_batch(self._id, params=params[first : first + 100])
        keep_id(path, self._id)
        return 0

    def _send(self, steps):
        run, now = self._id, int(time.time() * 1000)
        numbers = []
        for step, values in steps.items():
            for name, value in values.items():
                if isinstance(value, np.ndarray):
                    self._client.log_image(run, value, key=name.replace("/", "."), step=step)
                elif isinstance(value, str):
                    self._client.log_text(run, value, f"{name}/{step:08d}.txt")
                else:
                    numbers.append(self._metric(name, value, now, step))
        for first in range(0, len(numbers), _MOST):
            self._client.log_batch(run, metrics=numbers[first : first + _MOST])

    def _close(self):
        self._client.set_terminated(self._id)
