"""What works on the trials of a search, one after the other."""

from collections.abc import Sequence
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from llmlab.cli.search_space import assigned
from llmlab.cli.sweep import is_of_a_job
from llmlab.errors import TrainingError
from llmlab.runs.sweep import Jobs, read_result
from llmlab.search.search import Search, Settings
from llmlab.train.callbacks.pruning import validations

_FAILED_FIRST = 5  # trials that all fail, after which more would fail, too


class Worker:
    """What works on trials, one after the other; a launcher may send it to another process."""

    def __init__(
        self,
        jobs: Jobs,
        settings: Settings,
        base: Sequence[str],
        hydra_context: HydraContext,
        task: TaskFunction,
        config: DictConfig,
    ):
        self._jobs, self._settings, self._base = jobs, settings, list(base)
        self._context, self._task, self._config = hydra_context, task, config

    def __call__(self, composed: Any) -> None:
        """Take trials until there is none to take."""
        # Hydra runs the files of its plug-ins anew when it starts, so this is imported late.
        from hydra._internal.core_plugins import basic_launcher

        basic_launcher.log.addFilter(is_of_a_job)
        launcher = basic_launcher.BasicLauncher()
        launcher.setup(hydra_context=self._context, task_function=self._task, config=self._config)
        search = Search(self._jobs.folder, self._settings)
        failed = 0
        while (trial := search.next()) is not None:
            with trial:
                self._jobs.trial = trial
                values = [assigned(key, value) for key, value in trial.values.items()]
                tokens = [*self._base, *values, f"hydra.sweep.subdir={trial.folder}"]
                for done in launcher.launch([tokens], initial_job_idx=trial.number):
                    _ = done.return_value  # raises what the job has raised
                folder = self._jobs.folder / trial.folder
                result = read_result(folder)
                if result is None or result["status"] == "stopped":
                    return
                if result["status"] == "finished":
                    rows = validations(folder / "metrics.jsonl")
                    trial.catch_up([row["val_loss"] for row in rows])
                trial.tell(result, self._settings.objectives)
                failed = failed + 1 if result["status"] == "failed" and failed >= 0 else -1
                if failed == _FAILED_FIRST:
                    error = TrainingError(
                        f"search: the first {failed} trials of this worker failed, the last with: "
                        f"{result.get('error')}"
                    )
                    error.exit_code = result.get("exit_code", 1)
                    raise error
