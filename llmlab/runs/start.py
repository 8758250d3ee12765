"""Where a run begins: whether it is new, continued, or branches from a checkpoint.

Everything that starts asks here: a single run before its configuration is composed, a job of a
sweep, and each stage of a run once its folder is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any

from llmlab.checkpoints import RESUMED, Checkpoint, CheckpointFolder, load, peek, require
from llmlab.errors import ConfigError
from llmlab.runs.lookup import CHECKPOINTS, latest_run, meant, named
from llmlab.runs.overrides import differences, identity
from llmlab.runs.record import ID, RECORD, SWEEP_RECORD, origin_of, read_config, read_record
from llmlab.runs.run import Run
from llmlab.runs.sweep import owner, read_sweep

# What a folder may hold in which a run was about to begin when it was killed.
_LEFTOVERS = {"log", "lock", "config.yaml", "multirun.yaml"}


class AnothersFolder(ConfigError):
    """A job was given the folder of a job with other overrides."""


class Kind(StrEnum):
    """How something begins."""

    NEW = "new"
    CONTINUED = "continued"
    BRANCHED = "branched"
    SWEEP = "sweep"  # its jobs decide, each for itself


@dataclass(frozen=True)
class Start:
    """How a run, or a stage of one, begins."""

    # New: from first values. Continued: from what lies in the folder. Branched: a new run from the
    # very state that another one's checkpoint holds.
    kind: Kind
    # Of the run, the sweep or the stage; None for a run whose folder is composed.
    folder: Path | None = None
    # What run.json or sweep.json says of what is there; of a branched run, what the run of the
    # checkpoint was started with.
    record: Mapping[str, Any] | None = None
    origin: Path | None = None  # the checkpoint that a run branched from, now or at its first start
    # Of a stage: the state that it goes on from, loaded; None for first values.
    state: Checkpoint | None = None

    def stored_config(self) -> Mapping[str, Any] | None:
        """Return the configuration of the checkpoint that a run branched from."""
        if self.origin is None:
            return None
        # The other run's file may be gone by now.
        own = CheckpointFolder(self.folder / CHECKPOINTS).steps() if self.folder else []
        file = own[-1][1] if own else self.origin
        meta = peek(file)
        require(meta, ("config",), file, "continuing")
        return meta["config"]

    def recorded(self, key: str) -> Any:
        """Return the value of `key` in the config.yaml of a continued run; None for a new one."""
        if self.kind is not Kind.CONTINUED or self.folder is None:
            return None
        return (read_config(self.folder) or {}).get(key)

    def open(self, *, phase: str, hydra_overrides: Sequence[str], parent: Any, **given: Any) -> Run:
        """Begin the run in its folder, or continue it; see `Run.create` and `Run.open`."""
        assert self.folder is not None
        if self.kind is Kind.CONTINUED:
            return Run.open(self.folder, **given)
        new = {"phase": phase, "hydra_overrides": hydra_overrides, "origin": self.origin}
        return Run.create(self.folder, parent=self.origin or parent, **new, **given)


def start_of(value: str, phase: str | None = None, sweep: bool = False) -> Start:
    """Return what `resume=value` means.

    Parameters
    ----------
    value
        The path or the id of a run or a sweep, `latest`, a checkpoint, or a folder in which a
        run shall begin, so that one command serves start and restart.
    phase
        What `phase=` says beside it; a run goes on with its own.
    sweep
        Whether a sweep shall begin where nothing is.
    """
    path = _latest() if value == "latest" else named(value)
    if path.suffix == ".npz" or (path.exists() and not path.is_dir()):
        start = _from_file(path)
    elif (path / SWEEP_RECORD).is_file():
        start = Start(Kind.SWEEP, path, read_sweep(path))
    elif (path / RECORD).is_file():
        start = _of_run(path)
    else:
        start = Start(Kind.NEW, _free(path, sweep))
    _refuse_another_phase(value, start, phase)
    return start


def start_of_job(
    folder: Path, tokens: Sequence[str], former: Mapping[str, str | None] | None = None
) -> Start:
    """Return how a job of a sweep begins in its folder."""
    theirs = owner(folder, former or {})
    changed = [] if theirs is None else differences(theirs, identity(tokens, former))
    if changed:
        raise AnothersFolder(
            f"{folder}: belongs to a job with other overrides ({'; '.join(changed)}); give each "
            "job its own folder: leave hydra.sweep.subdir out, or let it name the keys that vary"
        )
    return _of_run(folder) if (folder / RECORD).is_file() else Start(Kind.NEW, folder)


def start_of_stage(run: Run, folder: Path, keep: int | str = 2) -> Start:
    """Return how the stage of a run whose files are in `folder` begins, with its state.

    A damaged checkpoint causes a warning, and the one before it is used.
    """
    origin = origin_of(run.record)
    checkpoints = CheckpointFolder(folder / CHECKPOINTS, keep)
    checkpoints.sweep()
    own = checkpoints.load_latest()
    if own is not None:
        return Start(Kind.CONTINUED, folder, run.record, origin, _whole(own))
    if origin is not None:
        return Start(Kind.BRANCHED, folder, run.record, origin, _whole(load(origin)))
    return Start(Kind.NEW, folder, run.record)


def _of_run(folder: Path) -> Start:
    record = read_record(folder)
    return Start(Kind.CONTINUED, folder, record, origin_of(record))


def _latest() -> Path:
    """Return the run that was started last, or the sweep that it belongs to."""
    run = latest_run().absolute()
    return run.parent if (run.parent / SWEEP_RECORD).is_file() else run


def _from_file(file: Path) -> Start:
    """Continue the run if this checkpoint is its newest state; else branch from it."""
    run = _run_that_ends_with(file)
    if run is not None:
        return _of_run(run)
    peek(file)  # training reads and verifies the rest
    records = [folder for folder in file.parents[1:3] if (folder / RECORD).is_file()]
    return Start(Kind.BRANCHED, None, read_record(records[0]) if records else None, file)


def _run_that_ends_with(file: Path) -> Path | None:
    """Return the run whose newest checkpoint is `file`; None if there is no such run."""
    stage = file.parent.parent
    run = next((f for f in (stage, stage.parent) if (f / RECORD).is_file()), None)
    if file.parent.name != CHECKPOINTS or run is None:
        return None
    later = run / "tune" / CHECKPOINTS
    if stage.name == "pretrain" and run != stage and any(later.glob("step-*.npz")):
        return None
    newest = CheckpointFolder(file.parent).latest()
    return run if newest is not None and newest.resolve() == file.resolve() else None


def _free(path: Path, sweep: bool) -> Path:
    """Return a folder for a new run; refuse one that holds something else."""
    # Nearly `latest`, but a new folder may well be called `test`.
    word = get_close_matches(path.name, ["latest", "best"], 1, 0.83)
    if not path.exists() and (word or ID.fullmatch(path.name)):
        raise ConfigError(
            f"resume={path.name}: no such run{'' if word else meant(path.name)}; resume=latest "
            "continues from the newest state, checkpoint=best starts something new from the best"
        )
    held = [item.name for item in path.iterdir()] if path.is_dir() else []
    foreign = [name for name in held if name not in _LEFTOVERS and not name.startswith(".")]
    if foreign and not sweep:
        raise ConfigError(
            f"resume={path}: neither a run nor a sweep, but it contains {foreign[0]}; "
            "name a run's folder, or one that is empty or doesn't exist yet"
        )
    return path


def _refuse_another_phase(value: str, start: Start, phase: str | None) -> None:
    """Refuse to run another phase in a folder that has one."""
    if phase is None or start.kind is Kind.NEW:
        return
    if start.kind is Kind.BRANCHED and start.origin is not None:
        own, what = str(peek(start.origin).get("stage")), "the state of a training"
    elif start.kind is Kind.SWEEP:
        typed = identity((start.record or {})["overrides"]).get("phase", '"full"')
        own, what = typed.strip('"'), "a sweep"
    else:
        own, what = str((start.record or {})["phase"]), "a run"
    if phase != own:
        weights = f", or start from its weights: phase={phase} checkpoint={value}"
        raise ConfigError(
            f"phase={phase} resume={value}: that is {what} of phase {own}, and continues as one; "
            f"leave phase= out{'' if start.kind is Kind.SWEEP else weights}"
        )


def _whole(state: Checkpoint) -> Checkpoint:
    """Return the state of a run, which may come from a file that something else has written."""
    require(state.meta, RESUMED, state.path, "continuing")
    return state
