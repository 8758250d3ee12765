"""`resume=` and `checkpoint=` before Hydra starts: turn names into paths, runs into overrides."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmlab.cli.arguments import FOLDERS, LATEST, is_sweep, joined, parts, quoted, split, token
from llmlab.cli.former_names import renamed
from llmlab.errors import CheckpointError, ConfigError
from llmlab.phases import PHASES
from llmlab.runs.overrides import Override

if TYPE_CHECKING:
    from llmlab.runs import Start

_OF_SWEEPS = re.compile(r"[+~]*(hydra[./])?(launcher|sweeper|sweep)\b")
_OF_LAUNCHERS = re.compile(r"[+~]*hydra[./]launcher\b")
_LENGTHS = {"epochs", "steps"}


@dataclass(frozen=True)
class CommandLine:
    """What Hydra gets: its flags, and overrides in its own grammar."""

    flags: list[str]
    tokens: list[str]
    sweep: bool
    typed: Sequence[str] = ()  # as it came, for the record
    start: "Start | None" = None  # of a single run that `resume=` names
    changed: Mapping[str, str | None] | None = None  # former tokens of a resumed sweep

    @property
    def argv(self) -> list[str]:
        """Return flags and tokens together."""
        return [*self.flags, *self.tokens]


def prepare(argv: Sequence[str]) -> CommandLine:
    """Return the command line for Hydra."""
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
            f"checkpoint={checkpoint.value} with phase={phase}: a job of a sweep can't start from "
            "another's checkpoint; phase=full does both stages"
        )
    return [
        token(
            _located(override, phase, sweep)
            if override.name in ("checkpoint", "draft")
            else override,
            sweep,
            phase,
        )
        for override in overrides
    ]


def _located(override: Override, phase: str, sweep: bool) -> Override:
    """Return the override with checkpoints' own paths instead of runs', `latest` and `best`."""
    from llmlab.runs.lookup import named, resolve_checkpoint

    if phase == "serve" and str(override.value).startswith("["):  # several at once
        each = [resolve_checkpoint(path) for path in parts(str(override.value)[1:-1])]
        return replace(override, value=f"[{joined(map(str, each))}]")
    value = override.value
    if value in (None, "", "null") or (override.name, value) == ("draft", "ngram"):
        return override
    if phase == "verify" and override.name == "checkpoint":  # takes whole runs and sweeps, too
        found = value if value in LATEST else str(named(value))
        return replace(override, value=found)
    values = parts(value) if sweep else [value]
    words = ("ngram",) if override.name == "draft" else ()
    try:
        found = [part if part in words else str(resolve_checkpoint(part)) for part in values]
    except CheckpointError as error:
        text = re.sub("^checkpoint=", f"{override.name}=", str(error))
        expected = ", ".join(["name a file", *words])
        raise CheckpointError(text.replace("name a file", expected)) from None
    return replace(override, value=joined(found) if sweep else found[0])


def _resumed(value: str, flags: list[str], given: list[Override], sweep: bool) -> CommandLine:
    """Return the command line that does what `resume=value` means."""
    from llmlab.runs.start import Kind, start_of

    phase = next((str(o.value) for o in reversed(given) if o.name == "phase"), None)
    start = start_of(value, phase, sweep)
    if start.kind is Kind.SWEEP:
        return _sweep(start, flags, given)
    if phase in PHASES and not PHASES[phase].trains:
        raise ConfigError(
            f"resume={value}: continues a training, and phase={phase} isn't one; "
            f"leave resume= out{', or use checkpoint=' if PHASES[phase].wants_checkpoint else ''}"
        )
    if sweep and start.kind is not Kind.NEW:
        raise ConfigError(
            f"resume={value}: this is one run; leave -m out"
            if start.kind is Kind.CONTINUED
            else f"resume={value}: a sweep can't continue one state; use checkpoint="
        )
    makers = {Kind.CONTINUED: _continued, Kind.BRANCHED: _branched}
    if start.kind in makers:
        return makers[start.kind](start, flags, given)
    print(f"resume={start.folder}: no run there yet, so a new one begins", file=sys.stderr)
    key = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    tokens = [*_tokens(given, sweep), _path(key, start.folder)]
    if not sweep:
        tokens.append(_path("resume", start.folder))
    return CommandLine(flags, tokens, sweep, start=None if sweep else start)


def _continued(start: "Start", flags: list[str], given: list[Override]) -> CommandLine:
    assert start.folder is not None and start.record is not None
    record = renamed(start.record, start.folder)
    tokens = [*_merged(record, given), _path("hydra.run.dir", start.folder)]
    tokens.append(_path("resume", start.origin or start.folder))
    return CommandLine(_with_own_yaml(flags, record), tokens, False, start=start)


def _branched(start: "Start", flags: list[str], given: list[Override]) -> CommandLine:
    """Begin a new run from exactly the state in an older or moved checkpoint.

    What decides the numbers comes from the checkpoint; the rest, such as the paths of data,
    from the run that it lies in, if there is one.
    """
    from llmlab.checkpoints import peek
    from llmlab.runs import TRAINING

    assert start.origin is not None
    stage = str(peek(start.origin).get("stage"))
    if stage == "import":
        raise ConfigError(
            f"resume={start.origin}: an imported checkpoint has nothing to continue; "
            "phase=tune checkpoint=FILE trains it"
        )
    if stage not in TRAINING:
        raise CheckpointError(f"{start.origin}: of an unknown stage '{stage}'")
    record = start.record or {"overrides": []}
    kept = [text for text in record["overrides"] if not _in_checkpoint(Override.of(text).name)]
    given = [override for override in given if override.name != "phase"]
    tokens = [*_merged({"overrides": kept}, given), f"phase={stage}", _path("resume", start.origin)]
    return CommandLine(_with_own_yaml(flags, record), tokens, False, start=start)


def _sweep(start: "Start", flags: list[str], given: list[Override]) -> CommandLine:
    record = start.record or {}
    tokens = [*_merged(record, given, sweep=True), _path("hydra.sweep.dir", start.folder)]
    # Keys that change for all jobs don't rename them, else none would be found again.
    before = {Override.of(text).name: text for text in record["overrides"]}
    changed = dict(record.get("changed", {}))
    for override in given:
        swept = "," in f"{override.value}{before.get(override.name, '')}"
        if not swept and not override.name.startswith("hydra"):
            changed.setdefault(override.name, before.get(override.name))
    if {"-m", "--multirun"}.isdisjoint(flags):
        flags = [*flags, "--multirun"]
    return CommandLine(_with_own_yaml(flags, record), tokens, True, changed=changed)


def _in_checkpoint(name: str) -> bool:
    """Tell whether the checkpoint, not the overrides of its run, decides this key."""
    from llmlab.config import kept_keys
    from llmlab.config.stored import PATH_KEYS

    top, _, rest = name.partition(".")
    if top in ("phase", "stages", "checkpoint", "positions"):
        return True
    # A group that was chosen counts as typed with all inside it, so that goes with it.
    return top in kept_keys() and top != "data" and rest.rpartition(".")[2] not in PATH_KEYS


def _merged(record: Mapping[str, Any], given: list[Override], sweep: bool = False) -> list[str]:
    """Return a record's overrides without the keys that are given again, followed by those."""
    new = {override.name for override in given}
    if not new.isdisjoint(_LENGTHS):
        new |= _LENGTHS
    old = [*record["overrides"], *record.get("hydra_overrides", [])]
    dropped = {*new, *FOLDERS, "hydra.mode", "resume"}
    stored = [text for text in old if Override.of(text).name not in dropped]
    if "launcher" in new:  # another one has other settings
        stored = [text for text in stored if not _OF_LAUNCHERS.match(text)]
    if not sweep:  # a job of a sweep is continued by itself
        stored = [text for text in stored if not _OF_SWEEPS.match(text)]
    return stored + [token(override, sweep) for override in given if override.name not in FOLDERS]


def _with_own_yaml(flags: list[str], record: Mapping[str, Any]) -> list[str]:
    """Return the flags with the folder of the user's YAML files, unless another is given."""
    folder = record.get("config_dir")
    given = {flag.partition("=")[0] for flag in flags} & {"--config-dir", "-cd"}
    return flags if given or not folder else [*flags, "--config-dir", str(folder)]


def _path(key: str, path: Path | None) -> str:
    return f"{key}={quoted(str(path))}"
