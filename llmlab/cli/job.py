"""One job: from what Hydra composed to a phase's results."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from llmlab import kernels
from llmlab.cli import sweep
from llmlab.cli.arguments import Override
from llmlab.cli.explain import explain, report
from llmlab.cli.standard_streams import forgiving
from llmlab.config import Config, load
from llmlab.errors import LlmlabError, ResourceError, Stopped
from llmlab.phases import Phase, find
from llmlab.runs.record import RECORD, read_config
from llmlab.runs.shell import near

log = logging.getLogger("llmlab")


def run_job(composed: Any, typed: Sequence[str]) -> int:
    """Run the only job of a command line, report its errors, and return the exit code.

    `typed` is the command line, for the run's record.
    """
    try:
        _execute(composed, typed, in_sweep=False)
    except (Exception, KeyboardInterrupt) as error:
        return report(error)
    return 0


def run_sweep_job(composed: Any, typed: Sequence[str], sweep_tokens: Sequence[str]) -> float:
    """Run one job of a sweep and return its loss; NaN if it failed, which stops no other.

    The result is left in the job's folder, where a job that has one isn't run again.
    """
    from llmlab.signals import orphaned

    settings = HydraConfig.get()
    folder = output_folder()
    sweep.open_sweep(Path(settings.sweep.dir).absolute(), sweep_tokens, _config_dir())
    result: dict[str, Any] = {"status": "finished", "overrides": _shown(_tokens("task"))}
    before = sweep.read_result(folder)
    if before and before["status"] == "finished" and before["overrides"] == result["overrides"]:
        log.info("%s: finished before", folder.name)
        return _loss(before)
    try:
        figures = _execute(composed, typed, in_sweep=True)
        result |= {name: _finite(figures.get(name)) for name in sweep.FIGURES}
    except (Stopped, KeyboardInterrupt) as error:
        code = getattr(error, "exit_code", 130)
        sweep.write_result(folder, {**result, "status": "stopped", "error": str(error)})
        if orphaned():
            os._exit(code)  # else it would go on with the next job
        if settings.runtime.choices.get("hydra/launcher") == "basic":
            raise sweep.SweepInterrupted(Path(settings.sweep.dir).absolute(), code) from error
        return math.nan
    except Exception as error:
        report(error)
        lines, code = explain(error)
        message = "; ".join(lines).replace("error: ", "")
        result |= {"status": "failed", "error": message, "exit_code": code}
    sweep.write_result(folder, result)
    return _loss(result)


def _execute(composed: Any, typed: Sequence[str], in_sweep: bool) -> dict[str, Any]:
    folder = output_folder()
    try:
        config = _configuration(composed, folder)
        phase = find(config.phase)
        action = phase.load()
        config = _with_kernels(config, folder if phase.trains else None)
    except Exception:
        if not in_sweep:
            _discard(folder)
        raise
    if in_sweep:
        config = replace(config, chat=False)
    if not phase.trains:
        return action(config, None) or {}
    return _train(config, phase, folder, typed, in_sweep)


def _configuration(composed: Any, folder: Path) -> Config:
    """Return what was composed; a run that branched from a checkpoint has that one's numbers."""
    typed = {Override.of(text).name for text in _tokens("task")}
    resume = composed.get("resume")
    stored = None
    if isinstance(resume, str) and resume.endswith(".npz"):
        from llmlab.checkpoints import CheckpointFolder, peek
        from llmlab.runs import CHECKPOINTS

        own = CheckpointFolder(folder / CHECKPOINTS).steps()  # the other may be gone by now
        stored = peek(own[-1][1] if own else resume)["config"]
    return load(composed, typed, stored)


def _with_kernels(config: Config, run: Path | None) -> Config:
    """Return `config` with a set of kernels for `auto`: a run that is there keeps its own."""
    name = config.kernels
    if name == "auto" and run is not None and (run / RECORD).exists():
        name = (read_config(run) or {}).get("kernels", name)
    return replace(config, kernels=kernels.resolve(name))


def _train(
    config: Config, phase: Phase, folder: Path, typed: Sequence[str], in_sweep: bool
) -> dict[str, Any]:
    """Run a training phase in its folder: one that is there already is continued."""
    from llmlab.runs import Run
    from llmlab.signals import interruptible

    branched = config.resume is not None and config.resume.endswith(".npz")
    continues = in_sweep or config.resume is not None
    common: dict[str, Any] = {
        "overrides": _tokens("task"),
        "argv": list(typed),
        "config_dir": _config_dir(),
        "config": config.to_dict(),
        "show_progress": not in_sweep,
    }
    if continues and (folder / RECORD).exists():
        opened = Run.open(folder, **common)
    else:
        opened = Run.create(
            folder,
            phase=config.phase,
            hydra_overrides=_tokens("hydra"),
            parent=config.resume if branched else config.checkpoint,
            **common,
        )
    with opened as run, interruptible(), forgiving():
        try:
            results = phase.load()(config, run) or {}
            run.finish("finished", **{key: _finite(value) for key, value in results.items()})
        except MemoryError as error:
            refusal = ResourceError(_out_of_memory(run.folder))
            _advise(refusal, run)
            raise refusal from error
        except BaseException as error:
            _advise(error, run)
            raise
    with forgiving():
        print(f"run: {near(folder)}", flush=True)
    if after := phase.load_after():
        after(config, results)
    return results


def _advise(error: BaseException, run: Any) -> None:
    """Add to an error where its traceback lies, and how the run goes on."""
    if run.refused(error) or isinstance(error, BrokenPipeError):
        return
    if not isinstance(error, LlmlabError | KeyboardInterrupt):
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
    """Return a text as it stands: `${...}` in a folder's name is no reference."""
    return str(settings._get_node(key)._value())


def _config_dir() -> str | None:
    """Return the folder that `--config-dir` named, for who continues this elsewhere."""
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


def _shown(tokens: list[str]) -> dict[str, str]:
    parts = [Override.of(text) for text in tokens]
    return {part.name: str(part.value).strip("'") for part in parts if part.name != "launcher"}


def _finite(value: Any) -> Any:
    """Return None for numbers that JSON doesn't have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _loss(result: dict[str, Any]) -> float:
    loss = result.get("loss")
    return math.nan if loss is None else float(loss)
