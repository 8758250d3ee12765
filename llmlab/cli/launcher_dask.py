"""Dask: the jobs of a sweep on a local cluster, or on one that runs somewhere."""

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from llmlab.cli.lost_jobs import LOST
from llmlab.cli.order import Order
from llmlab.errors import ConfigError, MissingPackage, ResourceError

_TO_CONNECT = 30.0  # seconds
_LOOK = 0.5  # seconds between two looks at whether a job is still wanted
_TO_SAVE = 60.0  # seconds in which a job that isn't may finish its step and save


class DaskLauncher(Launcher):
    """Send each job to a worker of Dask, which runs it in a process of its own.

    Without an `address` Dask's own settings say where the scheduler is, such as
    DASK_SCHEDULER_ADDRESS; else there is a local cluster that ends with the sweep, by default with
    a worker for each processor.
    """

    def __init__(self, order: Order, address: str | None = None, workers: int | None = None):
        if workers is not None and (type(workers) is not int or workers < 1):
            raise ConfigError(f"hydra.launcher.workers={workers}: expected a number from 1 up")
        if importlib.util.find_spec("distributed") is None:
            raise MissingPackage("launcher=dask", "distributed", "dask")
        self._order, self._address, self._workers = order, address, workers

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Remember what Hydra wants of a launcher; workers compose their jobs themselves."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; a job whose worker dies is given to another one."""
        from distributed import KilledWorker, wait

        with self._client() as client:
            futures = [
                client.submit(run_in_process, self._order.of_job(tokens, number), pure=False)
                for number, tokens in enumerate(job_overrides, initial_job_idx)
            ]
            try:
                wait(futures)
                return [_outcome(future, KilledWorker) for future in futures]
            except BaseException:
                client.cancel(futures)
                raise

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        """While open, have a client of the cluster, and a local cluster if there is no other."""
        import dask.config
        from distributed import Client, LocalCluster

        address = self._address or dask.config.get("scheduler-address", None)
        if address is None:
            local: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": None}
            workers = self._workers or os.cpu_count()
            quiet = logging.CRITICAL
            with (
                LocalCluster(n_workers=workers, silence_logs=quiet, **local) as cluster,
                Client(cluster) as client,
            ):
                yield client
            return
        try:
            client = Client(address, timeout=_TO_CONNECT)
        except (OSError, ValueError) as error:
            raise ResourceError(
                f"hydra.launcher.address={address}: {error}; start one there with: dask scheduler"
            ) from error
        with client:
            yield client


def _outcome(future: Any, lost: type[Exception]) -> JobReturn:
    """Return what became of a job."""
    if future.cancelled():
        raise ResourceError("launcher=dask: the scheduler is gone; start one and run this again")
    error = future.exception()
    if error is not None and not isinstance(error, lost):
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ResourceError(
            f"launcher=dask: {reason}; every worker needs llmlab, of the version that is here"
        )
    if error is not None or not 0 <= future.result() < 128:  # it was killed
        return LOST
    return JobReturn(status=JobStatus.COMPLETED, _return_value=None)


def run_in_process(order: str) -> int:
    """Run a job in a process of its own, as a task of Dask; return its exit code.

    It ends with this worker, however that dies, and when its task is cancelled.
    """
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    command = [sys.executable, "-m", "llmlab.cli.one_job", str(os.getpid())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        process.stdin.write(order)
        process.stdin.close()
        while True:
            task = worker.state.tasks.get(key)
            if task is None or task.state == "cancelled":
                process.terminate()
                return process.wait(_TO_SAVE)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(_LOOK)
    finally:
        process.kill()
        process.wait()
