"""What a sweep leaves: sweep.json, a folder for each job, and in it the job's result."""

import hashlib
import json
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.atomic_write import make_folder, replace_text
from llmlab.errors import CheckpointError
from llmlab.runs.overrides import Override, identity, value_of
from llmlab.runs.record import RECORD, SWEEP_RECORD, read_record
from llmlab.runs.stored import RESULT as RESULT_RULES
from llmlab.runs.stored import SWEEP, read_stored

RESULT = "result.json"
_DIGITS, _SLUG = 6, 60


@dataclass(frozen=True)
class Plan:
    """How many jobs there are to be."""

    names: Sequence[str]  # of the folders of all of them
    total: int  # how many of them are to run, or with `open_end` at most: a study may end before
    ended: int  # how many had ended when this start began, at the time `began`
    began: float
    open_end: bool = False

    def progress(self, folder: Path) -> str:
        """Return how many jobs have ended, and how long the others may take."""
        ended = sum((folder / name / RESULT).is_file() for name in self.names)
        most = " at most" if self.open_end else ""
        line = f"{ended} of{most} {self.total} job{'s' * (self.total != 1)}"
        here, left = ended - self.ended, self.total - ended
        if here <= 0 or left <= 0:
            return line
        return f"{line}, about {duration((time.time() - self.began) / here * left)} left{most}"


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Jobs:
    """The jobs of a sweep and their folders."""

    def __init__(
        self,
        folder: Path,  # the sweep's
        tokens: Sequence[str],  # overrides of all its jobs together, as this start has them
        varying: Collection[str],  # the keys of `tokens` that have several values
        # Tokens of the keys that a later start has changed for all jobs, as they were before: else
        # no job would be found again.
        former: Mapping[str, str | None] | None = None,
    ):
        self.folder, self.former = folder, dict(former or {})
        self.plan: Plan | None = None  # what is to be done, once that is known
        self.trial: Any = None  # of a search: the next job
        self.tokens = tokens
        self._fixed = {Override.of(text).name for text in tokens} - set(varying)
        known = _recorded(folder, self.former)
        self._known = {json.dumps(found): job.name for job, found in known}

    def identity(self, tokens: Sequence[str]) -> dict[str, str]:
        """Return what makes one job another; keys changed for all count as before."""
        return identity(tokens, self.former)

    def is_known(self, tokens: Sequence[str]) -> bool:
        """Tell whether the job had a folder when this start began."""
        return json.dumps(self.identity(tokens)) in self._known

    def name(self, tokens: Sequence[str]) -> str:
        """Return the name of a job's folder: the one that it has, else its keys that vary.

        Six digits of all its overrides follow, so that no two jobs share a name.
        """
        counted = self.identity(tokens)
        known = self._known.get(json.dumps(counted))
        if known is not None:
            return known
        digits = hashlib.sha256(json.dumps(counted).encode()).hexdigest()[:_DIGITS]
        named = [override for override in map(Override.of, tokens) if override.name in counted]
        words = [
            f"{override.name.rpartition('.')[2]}-{shown_value(override.value)}"
            for override in sorted(named, key=lambda override: override.name)
            if override.name not in self._fixed
        ]
        slug = re.sub(r"[^A-Za-z0-9.+]+", "-", "_".join(words)).strip("-.")
        return f"{slug[:_SLUG].strip('-.') or 'job'}-{digits}"


def shown_value(text: str | None) -> str:
    """Return an override's value as people read it: 0.001 for 1e-3, a path's last part."""
    if text is None:
        return ""
    value = value_of(text)
    if isinstance(value, str):
        return Path(value).name if value.startswith("/") else value
    return "null" if value is None else json.dumps(value, sort_keys=True).strip('"')


def read_sweep(folder: Path) -> dict[str, Any]:
    """Return a sweep's record; raise CheckpointError if it is damaged."""
    return read_stored(folder / SWEEP_RECORD, SWEEP, ("overrides",))


def write_sweep(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a sweep's record in one operation, if it says anything new."""
    path = folder / SWEEP_RECORD
    if not path.is_file() or read_sweep(folder) != record:
        _write(path, record)


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return what a job left, or None if it hasn't ended."""
    try:
        return read_stored(folder / RESULT, RESULT_RULES, ("status", "overrides"))
    except CheckpointError:
        return None


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Leave a job's result in its folder."""
    _write(folder / RESULT, result)


def results(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the result of each job of a sweep that has ended."""
    for path in sorted(folder.rglob(RESULT)):
        result = read_result(path.parent)
        if result is not None:
            yield str(path.parent.relative_to(folder)), result


def owner(folder: Path, former: Mapping[str, str | None]) -> dict[str, str] | None:
    """Return the identity of the job that a folder belongs to; None if it is nobody's yet."""
    if (folder / RECORD).is_file():
        return identity(read_record(folder)["overrides"], former)
    result = read_result(folder)
    if result is None:
        return None
    shown = [f"{key}={value}" for key, value in result["overrides"].items()]
    return identity(result.get("task", shown), former)  # older ones lack what was typed


def _recorded(
    folder: Path, former: Mapping[str, str | None]
) -> Iterator[tuple[Path, dict[str, str]]]:
    for job in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            found = owner(job, former) if job.is_dir() else None
        except CheckpointError:
            continue  # its start says so
        if found is not None:
            yield job, found


def _write(path: Path, values: Mapping[str, Any]) -> None:
    make_folder(path.parent)
    replace_text(path, json.dumps(values, indent=1) + "\n")
