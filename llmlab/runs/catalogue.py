"""All runs and sweeps of a folder, with what is known of each, and a filter."""

import math
import operator
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.errors import ConfigError, suggest
from llmlab.named import flat
from llmlab.runs.lookup import find_runs
from llmlab.runs.overrides import value_of
from llmlab.runs.record import SWEEP_RECORD, read_config
from llmlab.runs.sweep import results

_CONDITION = re.compile(r"(?P<key>[\w.]+)(?P<how><=|>=|!=|=|<|>)(?P<value>.*)")
_HOW: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Entry:
    """A run, or a sweep as a whole."""

    folder: Path
    # What can be asked for by `where`: id, phase, model, status, created, results, and the keys of
    # the configuration, dotted. Of a sweep its status is that of its jobs.
    facts: Mapping[str, Any]
    size: int  # bytes on the disk
    needs: tuple[Path, ...]  # the checkpoints that it began from


def catalogue(root: Path | str = "runs") -> list[Entry]:
    """Return all runs and sweeps below `root`, the oldest first; a sweep's jobs are in it."""
    alone: list[Entry] = []
    jobs: dict[Path, list[tuple[Path, dict[str, Any]]]] = {}
    for folder, record in find_runs(Path(root)):
        sweep = next((f for f in folder.parents if (f / SWEEP_RECORD).is_file()), None)
        if sweep is not None:
            jobs.setdefault(sweep, []).append((folder, record))
        else:
            alone.append(_entry(folder, record))
    sweeps = [_sweep(folder, own) for folder, own in jobs.items()]
    return sorted([*alone, *sweeps], key=lambda entry: (entry.facts["created"], entry.folder))


def matching(entries: list[Entry], where: str | None, key: str) -> list[Entry]:
    """Return the entries for which all conditions of `where` hold: `status=failed val_loss<2`.

    `key` is what holds them, for messages.
    """
    conditions = [_condition(word, entries, key) for word in (where or "").split()]
    return [entry for entry in entries if all(holds(entry.facts) for holds in conditions)]


def _condition(word: str, entries: list[Entry], where: str) -> Callable[[Mapping[str, Any]], bool]:
    found = _CONDITION.fullmatch(word)
    if found is None:
        raise ConfigError(
            f"{where}={word}: expected conditions such as status=failed or val_loss<2"
        )
    key, compare, wanted = found["key"], _HOW[found["how"]], value_of(found["value"])
    known = {name for entry in entries for name in entry.facts}
    if entries and key not in known:
        raise ConfigError(f"{where}={word}: no run has a {key}{suggest(key, known)}")

    def holds(facts: Mapping[str, Any]) -> bool:
        try:
            return key in facts and compare(facts[key], wanted)
        except TypeError:  # text against a number
            return False

    return holds


def needed_by_others(entry: Entry, others: list[Entry]) -> Entry | None:
    """Return another entry that began from a checkpoint of this one, if there is one."""
    for other in others:
        if other is not entry and any(path.is_relative_to(entry.folder) for path in other.needs):
            return other
    return None


def _entry(folder: Path, record: Mapping[str, Any]) -> Entry:
    facts = {"id": folder.name, "status": record.get("status"), "phase": record["phase"]}
    facts |= {"created": record.get("created", ""), **_configured(folder)}
    facts |= _numbers(record.get("results") or {})
    return Entry(folder, facts, _size(folder), _needs(record))


def _sweep(folder: Path, jobs: list[tuple[Path, dict[str, Any]]]) -> Entry:
    records = [record for _, record in jobs]
    ended = [result for _, result in results(folder)]
    whole = all(result["status"] == "finished" for result in ended) and len(ended) >= len(jobs)
    facts = {
        "id": folder.name,
        "status": "finished" if whole else "incomplete",
        "phase": records[0]["phase"],
        "created": min(record.get("created", "") for record in records),
        "jobs": len(jobs),
        **_configured(jobs[0][0]),
    }
    best = min(ended, key=lambda result: result.get("val_loss", result.get("loss", math.inf)))
    needs = tuple(path for record in records for path in _needs(record))
    return Entry(folder, facts | _numbers(best), _size(folder), needs)


def _configured(folder: Path) -> dict[str, Any]:
    config = read_config(folder) or {}
    model = config.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    own = {key: v for key, v in flat(config) if key not in ("phase", "status", "id") and v != {}}
    return {**own, "model": name or "-"}


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if isinstance(v, int | float) and k != "seed"}


def _needs(record: Mapping[str, Any]) -> tuple[Path, ...]:
    return tuple(Path(record[key]) for key in ("parent", "origin") if record.get(key))


def _size(folder: Path) -> int:
    total = 0
    for here, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(here, name)).st_size
            except OSError:
                continue
    return total
