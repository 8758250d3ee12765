"""`resume=` and `checkpoint=` before Hydra starts: names become paths, runs their overrides."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llmlab.cli.arguments import FOLDERS, LATEST, Override, is_sweep, parts, quoted, split, token
from llmlab.errors import CheckpointError, ConfigError
from llmlab.phases import PHASES
from llmlab.runs.record import RECORD, branches

SWEEP_RECORD = "sweep.json"
_OF_SWEEPS = re.compile(r"[+~]*(hydra[./])?(launcher|sweeper|sweep)\b")
_LENGTHS = {"epochs", "steps"}
# What a folder may hold in which a run was about to begin when it was killed.
_LEFTOVERS = {"log", "lock", "config.yaml", "multirun.yaml"}


@dataclass(frozen=True)
class CommandLine:
    """What Hydra gets: its flags, and overrides in its own grammar."""

    flags: list[str]
    tokens: list[str]
    sweep: bool
    typed: Sequence[str] = ()  # as it came, for the record

    @property
    def argv(self) -> list[str]:
        """Return flags and tokens together."""
        return [*self.flags, *self.tokens]


def prepare(argv: Sequence[str]) -> CommandLine:
    """Return the command line for Hydra.

    Raises
    ------
    ConfigError, CheckpointError
        For what is misspelt, or names no run and no checkpoint.
    """
    return replace(_prepared(argv), typed=tuple(argv))


def _prepared(argv: Sequence[str]) -> CommandLine:
    flags, overrides = split(argv)
    sweep = is_sweep(flags, overrides)
    given = {override.name: override for override in overrides}
    if "resume" in given and given["resume"].value not in (None, "", "null"):
        rest = [override for override in overrides if override.name != "resume"]
        return _resumed(str(given["resume"].value), flags, rest, sweep)
    return CommandLine(flags, _tokens(overrides, sweep), sweep)


def _tokens(overrides: list[Override], sweep: bool) -> list[str]:
    """Quote what is free text, and look up checkpoints once, before any job."""
    last = {override.name: override for override in overrides}
    phase = str(last["phase"].value) if "phase" in last else "full"
    phases = [name.strip() for name in phase.split(",")]
    training = [name for name in phases if name in PHASES and PHASES[name].trains]
    checkpoint = last.get("checkpoint")
    if checkpoint is None and phase in PHASES and PHASES[phase].wants_checkpoint:
        overrides = [*overrides, Override("", "checkpoint", "latest")]
    elif checkpoint is not None and checkpoint.value in LATEST and len(training) > 1:
        raise ConfigError(
            f"checkpoint={checkpoint.value} with phase={phase}: no job of a sweep starts from "
            "another's checkpoint; phase=full does both stages"
        )
    return [
        token(
            _located(override, phase, sweep) if override.name == "checkpoint" else override, sweep
        )
        for override in overrides
    ]


def _located(override: Override, phase: str, sweep: bool) -> Override:
    """Return the override with checkpoints' own paths instead of runs', `latest` and `best`."""
    from llmlab.runs import resolve_checkpoint

    value = override.value
    if value in (None, "", "null") or phase == "verify":  # verify takes whole runs, too
        return override
    found = [str(resolve_checkpoint(part)) for part in (parts(value) if sweep else [value])]
    joined = ",".join(f"'{path}'" if "," in path else path for path in found)
    return replace(override, value=joined if sweep else found[0])


def _resumed(value: str, flags: list[str], given: list[Override], sweep: bool) -> CommandLine:
    path = _latest() if value == "latest" else Path(value).expanduser().absolute()
    if path.suffix == ".npz" or (path.exists() and not path.is_dir()):
        run = _run_that_ends_with(path)
        if run is None:
            return _branched(path, flags, given, sweep)
        path = run
    if (path / SWEEP_RECORD).is_file():
        return _resumed_sweep(path, flags, given)
    if (path / RECORD).is_file():
        if sweep:
            raise ConfigError(f"resume={path}: that is one run; leave -m out")
        record = _stored(path / RECORD)
        tokens = [*_merged(record, given), _folder("hydra.run.dir", path)]
        # What a run branched from goes on saying what it computes.
        origin = next(filter(branches, record["overrides"]), _folder("resume", path))
        return CommandLine(_with_own_yaml(flags, record), [*tokens, origin], False)
    return _started(path, flags, given, sweep)


def _latest() -> Path:
    """Return the run that was started last, or the sweep that it belongs to."""
    from llmlab.runs import latest_run

    run = latest_run().absolute()
    return run.parent if (run.parent / SWEEP_RECORD).is_file() else run


def _started(path: Path, flags: list[str], given: list[Override], sweep: bool) -> CommandLine:
    """Begin a run in a folder that has none, so that one command serves start and restart."""
    # Nearly `latest`, but a new folder may well be called `test`.
    if not path.exists() and get_close_matches(path.name, ["latest", "best"], 1, 0.83):
        raise ConfigError(
            f"resume={path.name}: no such run; resume=latest goes on from the newest state, "
            "checkpoint=best starts something new from the best"
        )
    held = [item.name for item in path.iterdir()] if path.is_dir() else []
    foreign = [name for name in held if name not in _LEFTOVERS and not name.startswith(".")]
    if foreign and not (sweep and held):
        raise ConfigError(
            f"resume={path}: neither a run nor a sweep, but it holds {foreign[0]}; "
            "name a run's folder, or one that is empty or not there yet"
        )
    print(f"resume={path}: no run there yet, so one begins", file=sys.stderr)
    tokens = [
        *_tokens(given, sweep),
        _folder("hydra.sweep.dir" if sweep else "hydra.run.dir", path),
    ]
    return CommandLine(flags, tokens if sweep else [*tokens, f"resume={quoted(str(path))}"], sweep)


def _resumed_sweep(path: Path, flags: list[str], given: list[Override]) -> CommandLine:
    record = _stored(path / SWEEP_RECORD)
    tokens = [*_merged(record, given, sweep=True), _folder("hydra.sweep.dir", path)]
    # Keys that change for all jobs don't rename them, else none would be found again.
    before = {Override.of(text).name: text for text in record["overrides"]}
    changed = dict(record.get("changed", {}))
    for override in given:
        swept = "," in f"{override.value}{before.get(override.name, '')}"
        if not swept and not override.name.startswith("hydra"):
            changed.setdefault(override.name, before.get(override.name))
    if changed != record.get("changed", {}):
        write_record(path / SWEEP_RECORD, {**record, "changed": changed})
    if {"-m", "--multirun"}.isdisjoint(flags):
        flags = [*flags, "--multirun"]
    return CommandLine(_with_own_yaml(flags, record), tokens, True)


def _run_that_ends_with(file: Path) -> Path | None:
    """Return the run whose newest checkpoint is `file`; None if there is no such run."""
    from llmlab.checkpoints import CheckpointFolder
    from llmlab.runs import CHECKPOINTS

    stage = file.parent.parent
    run = next((f for f in (stage, stage.parent) if (f / RECORD).is_file()), None)
    if file.parent.name != CHECKPOINTS or run is None:
        return None
    later = run / "tune" / CHECKPOINTS
    if stage.name == "pretrain" and run != stage and any(later.glob("step-*.npz")):
        return None
    newest = CheckpointFolder(file.parent).latest()
    return run if newest is not None and newest.resolve() == file.resolve() else None


def _branched(file: Path, flags: list[str], given: list[Override], sweep: bool) -> CommandLine:
    """Begin a new run from the very state that an older or a moved checkpoint holds.

    What decides the numbers comes from the checkpoint; the rest, such as the paths of data,
    from the run that it lies in, if there is one.
    """
    from llmlab.checkpoints import peek

    if sweep:
        raise ConfigError(f"resume={file}: a sweep can't continue one state; use checkpoint=")
    stage = str(peek(file).get("stage"))  # training reads and verifies the rest
    if stage not in PHASES:
        raise CheckpointError(f"{file}: it is of a stage '{stage}' that llmlab doesn't know")
    records = [folder / RECORD for folder in file.parents[1:3] if (folder / RECORD).is_file()]
    stored = _stored(records[0]) if records else {"overrides": []}
    kept = [text for text in stored["overrides"] if not _in_checkpoint(Override.of(text).name)]
    given = [override for override in given if override.name != "phase"]
    tokens = [*_merged({"overrides": kept}, given), f"phase={stage}"]
    flags = _with_own_yaml(flags, stored)
    return CommandLine(flags, [*tokens, f"resume={quoted(str(file))}"], False)


def _in_checkpoint(name: str) -> bool:
    """Tell whether a checkpoint says better than its run's overrides what this key is."""
    from llmlab.config import kept_keys
    from llmlab.config.stored import PATH_KEYS

    top, _, rest = name.partition(".")
    if top in ("phase", "stages", "checkpoint"):
        return True
    # A group that was chosen counts as typed with all inside it, so that goes with it.
    return top in kept_keys() and top != "data" and rest.rpartition(".")[2] not in PATH_KEYS


def _merged(record: dict[str, Any], given: list[Override], sweep: bool = False) -> list[str]:
    """Return a record's overrides without the keys that are given anew, then those."""
    new = {override.name for override in given}
    if not new.isdisjoint(_LENGTHS):
        new |= _LENGTHS
    old = [*record["overrides"], *record.get("hydra_overrides", [])]
    dropped = {*new, *FOLDERS, "hydra.mode", "resume"}
    stored = [text for text in old if Override.of(text).name not in dropped]
    if not sweep:  # a job of a sweep is continued by itself
        stored = [text for text in stored if not _OF_SWEEPS.match(text)]
    return stored + [token(override, sweep) for override in given if override.name not in FOLDERS]


def _with_own_yaml(flags: list[str], record: dict[str, Any]) -> list[str]:
    """Return the flags with the folder of the user's YAML files, unless one is given anew."""
    folder = record.get("config_dir")
    given = {flag.partition("=")[0] for flag in flags} & {"--config-dir", "-cd"}
    return flags if given or not folder else [*flags, "--config-dir", str(folder)]


def _folder(key: str, path: Path) -> str:
    return f"{key}={quoted(str(path))}"


def _stored(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(text, str) for text in record["overrides"]):
            return record
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise CheckpointError(f"{path}: damaged, it doesn't say how the run was started; start anew")


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a sweep's record in one operation."""
    from llmlab.atomic_write import replace_text

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(record, indent=1) + "\n")
