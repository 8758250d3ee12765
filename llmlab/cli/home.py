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

    # The machine's name and the process's number
    node: str
    process: int
    folder: str  # where it was started: paths in the user's YAML begin there
    path: tuple[str, ...]  # where it finds modules, such as plug-ins named without `.py`

    @classmethod
    def here(cls) -> "Home":
        """Return that of this process."""
        return cls(platform.node(), os.getpid(), os.getcwd(), tuple(sys.path))

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
        if (self.node, self.process) == (platform.node(), os.getpid()):
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
            if os.getpid() != self._home.process:
                folder = self._jobs.folder / self._jobs.name(sweep_overrides)
                write_result(folder, failed(sweep_overrides, error))
            raise
