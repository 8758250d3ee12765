"""The launcher of a sweep, and jobs that a lost worker has left."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from llmlab.cli.home import WorkerLoader
from llmlab.cli.order import Order
from llmlab.cli.sweep_job import failed
from llmlab.errors import ResourceError
from llmlab.runs.log import PREEMPTED
from llmlab.runs.sweep import RESULT, Jobs, read_result, write_result

MOST_LOSSES = 3  # in a row, without any job having ended


class Cancelled(ResourceError):
    """Somebody has cancelled a job on its cluster, who won't want it started again."""


def launcher_of(
    order: Order, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
) -> Launcher:
    """Return the launcher that `hydra/launcher` chooses, set up."""
    loader = WorkerLoader(hydra_context.config_loader, order.home, order.jobs)
    context = HydraContext(config_loader=loader, callbacks=hydra_context.callbacks)
    given: dict[str, Any] = {"hydra_context": context, "task_function": task_function}
    choice = config.hydra.runtime.choices["hydra/launcher"]
    if choice == "dask":
        from llmlab.cli.launcher_dask import DaskLauncher

        launcher: Launcher = DaskLauncher(order, **config.hydra.launcher)
    elif choice == "submitit_slurm":
        from llmlab.cli.launcher_slurm import SlurmLauncher

        launcher = SlurmLauncher.of(config.hydra.launcher)
    else:
        return Plugins.instance().instantiate_launcher(**given, config=config)
    launcher.setup(**given, config=config)
    return launcher


Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]


def launched(launch: Launch, batch: list[list[str]], number: int, jobs: Jobs) -> Iterator[Any]:
    """Run a batch of jobs with `launch`; yield what came of each that ended.

    A job that was preempted, or whose worker died, has no new result. It is launched again and
    goes on from its last checkpoint; if that helps no job several times in a row, it has failed.
    """
    losses = 0
    while batch:
        before = [_mark(jobs, tokens) for tokens in batch]
        ended: Sequence[JobReturn | None] = [None] * len(batch)
        try:
            ended = launch(batch, number)
        except Exception as error:
            if not _is_loss(error):
                raise
        left = []
        for tokens, mark, done in zip(batch, before, ended, strict=True):
            result = read_result(_folder(jobs, tokens)) or {}
            same = _mark(jobs, tokens) == mark and result.get("status") != "finished"
            if _was_cancelled(done):
                continue
            if same or result.get("status") == PREEMPTED:
                left.append(tokens)
            elif done is not None:
                yield done
        helped = any(_mark(jobs, t) != m for t, m in zip(batch, before, strict=True))
        losses = 0 if helped else losses + 1
        if losses == MOST_LOSSES:
            _give_up(jobs, left)
            return
        if left:
            names = ", ".join(jobs.name(tokens) for tokens in left)
            print(f"taken up again, since their workers are gone: {names}", flush=True)
        batch = left


def _give_up(jobs: Jobs, left: Sequence[Sequence[str]]) -> None:
    """Leave a result for each job, so that the table is complete."""
    for tokens in left:
        error = ResourceError(
            f"its worker died {MOST_LOSSES} times, most often for lack of memory; its log and "
            "the launcher's say more"
        )
        write_result(_folder(jobs, tokens), failed(tokens, error))


def _was_cancelled(done: JobReturn | None) -> bool:
    return done is not None and isinstance(done._return_value, Cancelled)


def _is_loss(error: Exception) -> bool:
    """Tell whether a launcher raised this because a worker died."""
    of_ray = type(error).__module__.startswith("ray.exceptions")
    return isinstance(error, BrokenExecutor) or of_ray


def _folder(jobs: Jobs, tokens: Sequence[str]) -> Path:
    return jobs.folder / jobs.name(tokens)


def _mark(jobs: Jobs, tokens: Sequence[str]) -> tuple[int, int] | None:
    """Return what tells a job's result from the next one: it is replaced, never rewritten."""
    try:
        found = os.stat(_folder(jobs, tokens) / RESULT)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
