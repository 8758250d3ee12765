"""A sweep as Hydra runs it: its folder, the keys that vary, and how a signal ends it."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from llmlab.cli.arguments import as_typed
from llmlab.errors import ConfigError
from llmlab.runs.overrides import Override
from llmlab.runs.record import SWEEP_RECORD
from llmlab.runs.results import read_question
from llmlab.runs.shell import near, shell_command
from llmlab.search.search import SEARCH_RECORD
from llmlab.signals import interruptible
from llmlab.study.arms import FINISHED

log = logging.getLogger("llmlab")


class SweepInterrupted(KeyboardInterrupt):
    """A signal ended a sweep. Hydra counts other exceptions as a job's, and goes on."""

    def __init__(self, folder: Path | None, exit_code: int):
        command = shell_command(f"resume={near(folder)}") if folder else ""
        super().__init__(f"stopped; continue with: {command}" if folder else "stopped")
        self.exit_code = exit_code


def sweep_folder(tokens: Sequence[str]) -> Path:
    """Return the folder of a sweep: `hydra.sweep.dir` if given, else a new one in runs/.

    Resolvers in it, such as `${now:...}`, are resolved once, here.
    """
    from hydra.core.utils import setup_globals
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from llmlab.runs import new_id

    given = [part.value for part in map(Override.of, tokens) if part.name == "hydra.sweep.dir"]
    if not given or given[-1] is None:
        folder = Path("runs/sweeps").absolute() / new_id()
        while folder.exists():  # another one of this second, which this would go on with
            folder = folder.with_name(new_id())
        return folder
    setup_globals()
    text = given[-1]
    if text[:1] == text[-1:] == "'":
        text = text[1:-1].replace("\\'", "'")
    try:
        return Path(str(OmegaConf.create({"folder": text}).folder)).expanduser().absolute()
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"hydra.sweep.dir={text}: jobs of one sweep share a folder, so it can't depend on a "
            "key; write a path"
        ) from error


def varying(tokens: Sequence[str]) -> list[str]:
    """Return the keys that are given several values: a list, a choice, a range, a glob."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, found = OverridesParser.create(), []
    for text in tokens:
        try:
            several = parser.parse_override(text).is_sweep_override()
        except HydraException:
            continue  # Hydra will say so
        if several:
            found.append(Override.of(text).name)
    return found


def sweeping(folder: Path | None) -> AbstractContextManager[None]:
    """While open, let stopping signals end all jobs of the sweep in `folder`, if there is one.

    A launcher's workers die with KeyboardInterrupt; SIGTERM alone would leave them behind.
    """
    if folder is None:
        return nullcontext()
    return interruptible(lambda number: SweepInterrupted(folder, 128 + number))


def is_of_a_job(record: logging.LogRecord) -> bool:
    """Return False for the line that says how many jobs are launched, which would be 1.

    The line of a job names arguments of parts as they are typed, without Hydra's `++`.
    """
    if isinstance(record.msg, str) and not record.args and "++" in record.msg:
        record.msg = " ".join(map(as_typed, record.msg.split(" ")))
    return not record.getMessage().startswith("Launching")


def discard(folder: Path | None) -> None:
    """Remove the folder of a sweep that Hydra refused before its first job."""
    if folder is None or (folder / SWEEP_RECORD).exists():
        return
    (folder / "multirun.yaml").unlink(missing_ok=True)
    for path in (folder, folder.parent):
        try:
            path.rmdir()
        except OSError:
            return


def finish(folder: Path) -> int:
    """Write a sweep's tables, print its arms and the verdict, and return the exit code.

    It is 1 if some jobs failed, and that of all if each failed for the same kind of reason.
    """
    from llmlab.report.search_tables import optimism_of
    from llmlab.report.study import read_study
    from llmlab.report.study_page import draw
    from llmlab.report.study_tables import lines, write_tables

    (folder / "multirun.yaml").unlink(missing_ok=True)  # Hydra's copy of what was asked for
    if (folder / SEARCH_RECORD).is_file():
        from llmlab.cli.search_end import finish_search

        return finish_search(folder)
    study = read_study(folder)
    write_tables(folder, study)
    print("\n".join(lines(study, study.question.study.get("jobs", False))))
    searched = read_question(folder).get("config_dir")
    if searched and (said := optimism_of(Path(searched), folder)):
        print(f"\n{said}")
    print(f"sweep: {near(folder)}")
    print(draw(folder, study))
    jobs = study.sweep.jobs
    codes = [job.exit_code for job in jobs if job.status != FINISHED]
    return codes[0] if len(codes) == len(jobs) and len(set(codes)) == 1 else int(bool(codes))
