"""One job: from what Hydra composed to a phase's results."""

import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from llmlab import kernels
from llmlab.cli.arguments import typed_keys
from llmlab.cli.explain import explain, report
from llmlab.cli.standard_streams import forgiving
from llmlab.cli.sweep import SweepInterrupted
from llmlab.config import Config, load
from llmlab.errors import Diverged, LlmlabError, ResourceError, Stopped
from llmlab.phases import Phase, arguments_of, find
from llmlab.plugin_errors import PluginError, located
from llmlab.runs.lookup import resolve_checkpoint
from llmlab.runs.overrides import STUDY_KEYS, Override
from llmlab.runs.record import SWEEP_RECORD
from llmlab.runs.shell import near
from llmlab.runs.start import AnothersFolder, Kind, Start, start_of_job
from llmlab.runs.sweep import Jobs, read_result, write_result, write_sweep

log = logging.getLogger("llmlab")


def run_job(composed: Any, typed: Sequence[str], start: Start | None) -> int:
    """Run the only job of a command line, report its errors, and return the exit code.

    Parameters
    ----------
    typed
        The command line, for the run's record.
    start
        How its run begins, if `resume=` said so; else it is a new one.
    """
    try:
        folder = output_folder()
        begin = Start(Kind.NEW) if start is None else start
        _execute(composed, typed, replace(begin, folder=folder), in_sweep=False)
    except (Exception, KeyboardInterrupt) as error:
        return report(error)
    return 0


def run_sweep_job(composed: Any, typed: Sequence[str], jobs: Jobs, record: dict[str, Any]) -> float:
    """Run one job of a sweep and return its loss; NaN if it failed, which doesn't stop the others.

    The result is left in the job's folder, where a job that has one isn't run again. A folder
    that belongs to another job stays as it is: the refusal gets a folder of its own.

    Parameters
    ----------
    record
        What sweep.json is to say as soon as a job of this start does something.
    """
    folder, tokens = output_folder(), _tokens("task")
    if not (jobs.folder / SWEEP_RECORD).exists():
        write_sweep(jobs.folder, record)
    before = read_result(folder)
    result: dict[str, Any] = {"status": "finished", "overrides": shown(tokens), "task": tokens}
    began = time.monotonic() - (before or {}).get("seconds", 0.0)
    try:
        start = start_of_job(folder, tokens, jobs.former)
        if before and before["status"] == "finished" and before["overrides"] == result["overrides"]:
            log.info("%s: already finished", folder.name)
            return _loss(before)
        done = _execute(composed, typed, start, in_sweep=True)
        if before and before["status"] == "finished" and not done.begun:
            return _loss(before)  # what was asked for now was never trained
        result |= {"seed": done.seed, "seconds": round(time.monotonic() - began, 3)}
        result |= {name: value for name, value in done.figures.items() if _is_scalar(value)}
    except (Stopped, KeyboardInterrupt) as error:
        result["seconds"] = round(time.monotonic() - began, 3)
        _stopped(folder, result, jobs.folder, error)
        return math.nan
    except Exception as error:
        report(error)
        lines, code = explain(error)
        message = "; ".join(lines).replace("error: ", "")
        status = "diverged" if isinstance(error, Diverged) else "failed"
        result |= {"status": status, "error": message, "exit_code": code}
        if isinstance(error, AnothersFolder):
            folder = jobs.folder / jobs.name(tokens)
    write_sweep(jobs.folder, record)
    write_result(folder, result)
    if jobs.plan is not None and len(jobs.plan.names) > 1:
        print(jobs.plan.progress(jobs.folder), flush=True)
    return _loss(result)


def _stopped(folder: Path, result: dict[str, Any], sweep: Path, error: BaseException) -> None:
    """Write the result of a job that a signal ended; in this process the sweep ends with it."""
    from llmlab.signals import orphaned

    code = getattr(error, "exit_code", 130)
    write_result(folder, {**result, "status": "stopped", "error": str(error)})
    if orphaned():
        os._exit(code)  # else it would go on with the next job
    if HydraConfig.get().runtime.choices.get("hydra/launcher") == "basic":
        raise SweepInterrupted(sweep, code) from error


@dataclass(frozen=True)
class Done:
    """The results of a phase, and whether its run did anything this time."""

    figures: dict[str, Any]
    seed: int
    begun: bool = True


def _execute(composed: Any, typed: Sequence[str], start: Start, in_sweep: bool) -> Done:
    assert start.folder is not None
    try:
        config = load(composed, typed_keys(_tokens("task")), start.stored_config())
        phase = find(config.phase)
        arguments = arguments_of(config)
        if phase.wants_checkpoint and config.checkpoint is None and phase.function is not None:
            config = replace(config, checkpoint=str(resolve_checkpoint("latest")))
        # A run that is there keeps the kernels that `auto` meant.
        kept = start.recorded("kernels") if phase.trains and config.kernels == "auto" else None
        config = replace(config, kernels=kernels.resolve(kept or config.kernels))
    except Exception:
        if not in_sweep:
            _discard(start.folder)
        raise
    if in_sweep:
        config = replace(config, chat=False, report=config.report is True)  # it has its own
    if not phase.trains:
        with located():
            return Done(phase.load()(config, None, **arguments) or {}, config.seed)
    return _train(config, phase, arguments, start, typed, in_sweep)


def _train(
    config: Config,
    phase: Phase,
    arguments: dict[str, Any],
    start: Start,
    typed: Sequence[str],
    in_sweep: bool,
) -> Done:
    """Run a training phase in its folder."""
    from llmlab.signals import interruptible

    opened = start.open(
        phase=config.phase,
        hydra_overrides=_tokens("hydra"),
        parent=config.checkpoint,
        overrides=_tokens("task"),
        argv=list(typed),
        config_dir=config_dir(),
        config=config.to_dict(),
        show_progress=not in_sweep,
    )
    with opened as run, interruptible(), forgiving():
        try:
            with located():
                results = phase.load()(config, run, **arguments) or {}
            run.finish("finished", **{key: _finite(value) for key, value in results.items()})
        except MemoryError as error:
            refusal = ResourceError(_out_of_memory(run.folder))
            _advise(refusal, run)
            raise refusal from error
        except BaseException as error:
            _advise(error, run)
            raise
    with forgiving():
        print(f"run: {near(run.folder)}", flush=True)
    if after := phase.load_after():
        after(config, results)
    return Done(results, config.seed, run.begun)


def _advise(error: BaseException, run: Any) -> None:
    """Add notes to an error: where its traceback is, and how to continue the run."""
    if run.refused(error) or isinstance(error, BrokenPipeError):
        return
    told = isinstance(error, LlmlabError | KeyboardInterrupt)
    if not told or isinstance(error, PluginError):
        error.add_note(f"the traceback is in {near(run.folder / 'log')}")
    if "resume=" not in str(error):
        error.add_note(f"continue with: {run.resume_command}")


def _out_of_memory(folder: Path) -> str:
    from llmlab.runs import newest_of

    try:
        newest = newest_of(folder)
    except LlmlabError:
        newest = None
    saved = f"; the last checkpoint is {near(newest)}" if newest else ""
    return f"out of memory: lower batch_size or the sizes of the model{saved}"


def output_folder() -> Path:
    """Return where Hydra has put this job."""
    return Path(literal(HydraConfig.get().runtime, "output_dir"))


def literal(settings: Any, key: str) -> str:
    """Return a text literally: `${...}` in a folder's name isn't a reference."""
    return str(settings._get_node(key)._value())


def config_dir() -> str | None:
    """Return the folder that `--config-dir` named, for a later resume."""
    for source in HydraConfig.get().runtime.config_sources:
        if source.provider == "command-line":
            return literal(source, "path")
    return None


def _tokens(kind: str) -> list[str]:
    """Return the overrides as they were typed, without resolving what is in them."""
    found = OmegaConf.to_container(getattr(HydraConfig.get().overrides, kind), resolve=False)
    return [str(text) for text in found or []] if isinstance(found, list) else []


def _discard(folder: Path) -> None:
    """Remove the empty folders that Hydra made for a job that never began."""
    for path in (folder, folder.parent, folder.parent.parent):
        if path == Path.cwd():
            return
        try:
            path.rmdir()
        except OSError:
            return


def shown(tokens: Sequence[str]) -> dict[str, str]:
    """Return overrides as a job's result has them: without what is asked of the whole sweep."""
    parts = [Override.of(text) for text in tokens]
    others = ("launcher", *STUDY_KEYS)
    own = [part for part in parts if part.name.split(".")[0] not in others]
    return {part.name: str(part.value).strip("'") for part in own}


def _finite(value: Any) -> Any:
    """Return None for numbers that JSON doesn't have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_scalar(value: Any) -> bool:
    """Tell whether a result is kept of a job: text, or a number that JSON has."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _loss(result: dict[str, Any]) -> float:
    loss = result.get("loss")
    return math.nan if loss is None else float(loss)
