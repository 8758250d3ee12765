"""Hydra, started and kept quiet; nothing outside this package imports it."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmlab.cli.places import conf_folder, data_folder
from llmlab.cli.resume import CommandLine
from llmlab.errors import ConfigError

if TYPE_CHECKING:
    from llmlab.config import Config
    from llmlab.runs.sweep import Jobs

Task = Callable[[Any], Any]


def survive_python_314() -> None:
    """Let Hydra 1.3 start: argparse now checks help texts, and some of Hydra's aren't text."""
    check = getattr(argparse.ArgumentParser, "_check_help", None)
    if check is None or getattr(check, "lenient", False):
        return

    def lenient(self: Any, action: argparse.Action) -> None:
        if isinstance(action.help, str):
            check(self, action)

    lenient.lenient = True  # type: ignore[attr-defined]
    argparse.ArgumentParser._check_help = lenient  # type: ignore[attr-defined]


def register_resolvers() -> None:
    """Make the resolvers of conf/, such as `${run_id:}`, known to YAML."""
    from omegaconf import OmegaConf

    from llmlab.runs import new_id

    OmegaConf.register_new_resolver("run_id", new_id, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("data_dir", lambda: str(data_folder()), replace=True)
    # Unlike ${hydra.runtime.cwd}, what a resolver returns isn't taken for a reference again.
    OmegaConf.register_new_resolver("working_folder", os.getcwd, replace=True)


def start(command: CommandLine) -> int:
    """Let Hydra compose the configuration and run the job or the jobs; return the exit code."""
    survive_python_314()
    from llmlab.cli.hydra_errors import translated
    from llmlab.cli.sweep import discard, finish, sweep_folder, sweeping
    from llmlab.cli.user_yaml import check_stored, guarded
    from llmlab.runs.record import SWEEP_RECORD

    register_resolvers()
    check_stored(command.tokens, command.typed)
    folder = sweep_folder(command.tokens) if command.sweep else None
    codes: list[int] = []
    sweeper: Any = nullcontext()
    if folder is None:
        tokens, task = _single(command, codes)
    else:
        jobs, record = _jobs(command, folder)
        from llmlab.cli.order import Order
        from llmlab.cli.sweeper import new_sweeper, sweeper_of

        order = Order(command.flags, command.typed, jobs, record)
        sweeper = sweeper_of(lambda: new_sweeper(order))
        tokens, task = list(jobs.tokens), order.task
    mode = sweeping_mode(command.sweep, command.flags)
    with as_program([*command.flags, *tokens]), mode, guarded(), sweeping(folder), sweeper:
        try:
            hydra_main()(task)()
        except Exception as error:
            discard(folder)
            raise translated(error, tokens) from error
        if folder is not None and not (folder / SWEEP_RECORD).exists():
            discard(folder)
            raise ConfigError(f"{' '.join(command.typed)}: a sweep without jobs; give values")
        if folder is not None:
            return finish(folder)
    return codes[0] if codes else 0


def hydra_main() -> Callable[[Task], Callable[[], None]]:
    """Return Hydra's decorator for this package's conf/."""
    import hydra

    return hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")


def _single(command: CommandLine, codes: list[int]) -> tuple[list[str], Task]:
    """Return the tokens and the task of a single run, which adds its exit code to `codes`."""

    def task(cfg: Any) -> None:
        from llmlab.cli.job import run_job

        codes.append(run_job(cfg, command.typed, command.start))

    return command.tokens, task


def _jobs(command: CommandLine, folder: Path) -> tuple["Jobs", dict[str, Any]]:
    """Return the jobs of a sweep, and what sweep.json is to say; Hydra asks for their folders."""
    from llmlab.cli.arguments import quoted
    from llmlab.cli.sweep import varying
    from llmlab.runs.overrides import Override
    from llmlab.runs.results import read_question
    from llmlab.runs.sweep import Jobs

    before = read_question(folder)
    former = before.get("changed", {}) if command.changed is None else command.changed
    tokens = [text for text in command.tokens if Override.of(text).name != "hydra.sweep.dir"]
    seeds = {"seed"} if "seeds=auto" in tokens else set()
    keys = sorted({*varying(tokens), *before.get("varying", ()), *seeds})
    tokens.append(f"hydra.sweep.dir={quoted(str(folder))}")
    jobs = Jobs(folder, tokens, keys, former)

    name_folders(jobs)
    return jobs, {"overrides": tokens, "varying": keys, "changed": former}


def name_folders(jobs: "Jobs") -> None:
    """Let Hydra ask `jobs` for the names of their folders."""
    from omegaconf import OmegaConf

    def name(overrides: Any) -> str:
        return jobs.name([str(text) for text in OmegaConf.to_container(overrides, resolve=False)])  # pyright: ignore[reportOptionalIterable]

    OmegaConf.register_new_resolver("job_folder", name, replace=True)


def compose(*argv: str) -> "Config":
    """Return the configuration of a command line, without running anything.

    `argv` is as on the command line: `compose("phase=tune", "lr=1e-4")`.
    """
    survive_python_314()
    from hydra import compose as compose_with_hydra
    from hydra import initialize_config_dir

    from llmlab.cli.arguments import typed_keys
    from llmlab.cli.hydra_errors import translated
    from llmlab.cli.resume import prepare
    from llmlab.cli.user_yaml import guarded
    from llmlab.config import load

    register_resolvers()
    tokens = prepare(argv).tokens
    try:
        with guarded(), initialize_config_dir(str(conf_folder()), version_base="1.3"):
            composed = compose_with_hydra("config", overrides=tokens)
    except Exception as error:
        raise translated(error, tokens) from error
    return load(composed, typed_keys(tokens))


@contextmanager
def as_program(argv: list[str]) -> Iterator[None]:
    """Give Hydra, which reads `sys.argv` itself, the arguments; ask it for complete errors.

    What it does to the root logger is undone at the end.
    """
    before = sys.argv
    sys.argv = [*(before[:1] or ["llmlab"]), *argv]
    full = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with _logging_restored():
            yield
    finally:
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


@contextmanager
def sweeping_mode(sweep: bool, flags: Sequence[str]) -> Iterator[None]:
    """Tell Hydra whether to sweep; to find out, it would compose everything once more.

    None means as the flags say; a launcher sweeps without a flag.
    """
    from hydra._internal.hydra import Hydra
    from hydra.types import RunMode

    ask = Hydra.get_mode
    flagged = not {"-m", "--multirun"}.isdisjoint(flags)
    mode = RunMode.MULTIRUN if sweep and not flagged else None
    Hydra.get_mode = lambda self, config_name, overrides: mode  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = ask  # type: ignore[method-assign]


@contextmanager
def _logging_restored() -> Iterator[None]:
    """Undo what Hydra does to the root logger, for programs that continue after `main`.

    Meanwhile a message that can't be written is left out; logging would print a traceback.
    """
    root = logging.getLogger()
    handlers, level, complaining = root.handlers[:], root.level, logging.raiseExceptions
    logging.raiseExceptions = False
    try:
        yield
    finally:
        logging.raiseExceptions = complaining
        root.handlers[:] = handlers
        root.setLevel(level)
