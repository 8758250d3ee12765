"""A process for one job of a sweep, or a worker of a search: `... one_job PARENT < ORDER`.

Where a launcher's workers run jobs in threads, which can neither hold signals nor fork safely.
"""

import sys
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.plugins.sweeper import Sweeper

from llmlab.cli.explain import report
from llmlab.cli.hydra_errors import translated
from llmlab.cli.order import OneJob
from llmlab.cli.search import SearchSweeper
from llmlab.cli.standard_streams import close_streams, open_streams
from llmlab.cli.start import (
    as_program,
    hydra_main,
    name_folders,
    register_resolvers,
    survive_python_314,
    sweeping_mode,
)
from llmlab.cli.sweep_job import failed
from llmlab.cli.sweeper import sweeper_of
from llmlab.cli.user_yaml import guarded
from llmlab.runs.sweep import write_result
from llmlab.signals import end_with


class OneJobSweeper(Sweeper):
    """Run one job in this process, whichever launcher the sweep has."""

    def __init__(self, job: OneJob):
        self._job = job

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Take the job to Hydra's own launcher."""
        self.launcher = BasicLauncher()
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the job; what it raises is raised."""
        assert self.launcher is not None
        for done in self.launcher.launch([self._job.tokens], self._job.number):
            _ = done.return_value


def run(job: OneJob) -> int:
    """Run a job and leave its result, also if it can't be composed; return an exit code."""
    jobs, tokens = job.order.jobs, list(job.order.jobs.tokens)
    try:
        name_folders(jobs)
        with (
            as_program([*job.order.flags, *tokens]),
            sweeping_mode(True, job.order.flags),
            guarded(),
            sweeper_of(lambda: _sweeper(job)),
        ):
            hydra_main()(job.order.task)()
    except Exception as error:
        explained = translated(error, tokens)
        if not job.order.is_search:  # whose workers leave what becomes of each trial
            write_result(jobs.folder / jobs.name(job.tokens), failed(job.tokens, explained))
        return report(explained)
    return 0


def _sweeper(job: OneJob) -> Sweeper:
    return SearchSweeper(job.order, True) if job.order.is_search else OneJobSweeper(job)


def main() -> int:
    """Read the order from standard input."""
    end_with(int(sys.argv[1]))
    open_streams()
    survive_python_314()
    register_resolvers()
    try:
        return run(OneJob.of(sys.stdin.read()))
    except (Exception, KeyboardInterrupt) as error:
        return report(error)
    finally:
        close_streams()


if __name__ == "__main__":
    sys.exit(main())
