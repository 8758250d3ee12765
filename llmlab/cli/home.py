"""Where a sweep was started, and what makes a launcher's worker on any machine like it."""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl

from llmlab.cli.sweep_job import failed
from llmlab.cli.user_yaml import guarded
from llmlab.errors import ResourceError
from llmlab.runs.sweep import Jobs, write_result


@dataclass(frozen=True)
class Home:
    """The process that a sweep was started in; launchers take it to their workers."""

    process: int  # its number, which a process on another machine may have, too
    folder: str  # where it was started: paths in the user's YAML begin there
    path: tuple[str, ...]  # where it finds modules, such as plug-ins named without `.py`
    sent: bool = False  # whether this came to a worker

    @classmethod
    def here(cls) -> "Home":
        """Return that of this process."""
        return cls(os.getpid(), os.getcwd(), tuple(sys.path))

    def __reduce__(self) -> tuple[Any, ...]:
        """Tell whoever gets this from another process that it was sent."""
        return Home, (self.process, self.folder, self.path, True)

    @property
    def is_here(self) -> bool:
        """Whether this is the process that the sweep was started in."""
        return not self.sent and os.getpid() == self.process

    def enter(self) -> None:
        """Stand in the sweep's folder and find its modules."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ResourceError(
                f"{self.folder}: {error.strerror} on {platform.node()}; start the sweep in a "
                "folder that all machines share under the same path"
            ) from error
        sys.path += [place for place in self.path if place not in sys.path]

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """While open in a worker, let Hydra accept only what it accepts where the sweep began."""
        if self.is_here:
            yield  # it is guarded already
            return
        self.enter()
        with guarded():
            yield


class WorkerLoader(ConfigLoaderImpl):
    """Hydra's loader, for launchers that compose a job in its worker.

    What can't be composed there is the job's result: its launcher may have nobody to tell.
    """

    def __init__(self, loader: Any, home: Home, jobs: Jobs):
        vars(self).update(vars(loader))
        self._home, self._jobs = home, jobs

    def load_sweep_config(self, master_config: Any, sweep_overrides: list[str]) -> Any:
        """Compose the configuration of one job."""
        try:
            with self._home.guarded():
                return super().load_sweep_config(master_config, sweep_overrides)
        except Exception as error:
            if not self._home.is_here:
                folder = self._jobs.folder / self._jobs.name(sweep_overrides)
                write_result(folder, failed(sweep_overrides, error))
            raise
