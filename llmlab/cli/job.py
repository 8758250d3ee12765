"""One job: from what Hydra composed to a phase's results."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from llmlab import kernels
from llmlab.cli import ranks
from llmlab.cli.arguments import typed_keys
from llmlab.cli.explain import report
from llmlab.cli.job_result import finite
from llmlab.cli.standard_streams import forgiving
from llmlab.config import Config, load
from llmlab.errors import ConfigError, LlmlabError, ResourceError
from llmlab.phases import PHASES, Phase, arguments_of, find
from llmlab.phases.summary import facts
from llmlab.plugin_errors import PluginError, located
from llmlab.runs.lookup import resolve_checkpoint
from llmlab.runs.shell import near
from llmlab.runs.start import Kind, Start


def run_job(composed: Any, typed: Sequence[str], start: Start | None) -> int:
    """Run the only job of a command line, report its errors, and return the exit code.

    `typed` is the command line, for the run's record; `start` says how the run begins if `resume=`
    did.
    """
    try:
        begin = replace(start or Start(Kind.NEW), folder=output_folder())
        execute(composed, typed, begin, in_sweep=False)
    except (Exception, KeyboardInterrupt) as error:
        return report(error)
    return 0


@dataclass(frozen=True)
class Done:
    """The results of a phase, and whether its run did anything this time."""

    figures: dict[str, Any]
    seed: int
    begun: bool = True


def execute(
    composed: Any, typed: Sequence[str], start: Start, in_sweep: bool, trial: Any = None
) -> Done:
    """Run the phase of a composed configuration, and return its results.

    `trial` is that of a search which the run is.
    """
    assert start.folder is not None
    try:
        keys = typed_keys(tokens_of("task"))
        _refuse_foreign(keys, str(composed.phase))
        config = load(composed, keys, start.stored_config())
        phase = find(config.phase)
        ranks.check(config)
        arguments = arguments_of(config)
        if phase.wants_checkpoint and config.checkpoint is None and phase.function is not None:
            config = replace(config, checkpoint=str(resolve_checkpoint("latest")))
        # A run that is there keeps the kernels that `auto` meant.
        kept = start.recorded("kernels") if phase.trains and config.kernels == "auto" else None
        config = replace(config, kernels=kernels.resolve(kept or config.kernels))
        if trial is not None and trial.limits:
            trial.check(facts(config))
    except Exception:
        if not in_sweep:
            _discard(start.folder)
        raise
    if in_sweep:
        config = replace(config, chat=False, report=config.report is True)  # it has its own
    if not phase.trains:
        with located():
            return Done(phase.load()(config, None, **arguments) or {}, config.seed)
    return _train(config, phase, arguments, start, typed, in_sweep, trial)


def _refuse_foreign(keys: Iterable[str], phase: str) -> None:
    """Refuse arguments of another phase, which are spelt right."""
    tops = {key: key.partition(".")[0] for key in sorted(keys) if "." in key}
    foreign = [key for key, top in tops.items() if top in PHASES and top != phase]
    if foreign:
        raise ConfigError([f"{key}: only phase={tops[key]} takes this key" for key in foreign])


def _train(
    config: Config,
    phase: Phase,
    arguments: dict[str, Any],
    start: Start,
    typed: Sequence[str],
    in_sweep: bool,
    trial: Any,
) -> Done:
    """Run a training phase in its folder."""
    from llmlab.signals import interruptible

    opened = start.open(
        phase=config.phase,
        hydra_overrides=tokens_of("hydra"),
        parent=config.checkpoint,
        overrides=tokens_of("task"),
        argv=list(typed),
        config_dir=config_dir(),
        config=config.to_dict(),
        show_progress=not in_sweep,
    )
    with opened as run, interruptible(), forgiving():
        run.trial = trial
        try:
            with located():
                results = phase.load()(config, run, **arguments) or {}
            run.finish("finished", **{key: finite(value) for key, value in results.items()})
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


def tokens_of(kind: str) -> list[str]:
    """Return the overrides of a kind, `task` or `hydra`, as typed: nothing in them is resolved."""
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
