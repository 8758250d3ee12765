"""Curves of several runs, brought together: the mean over seeds and how far they reach."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum, isfinite
from pathlib import Path
from typing import Any

from llmlab.train.rows import read_rows

_POINTS = 120  # of a curve; more can't be told apart on a screen
_STAGES = ("tune", "pretrain")  # of a run of phase full, the last first
WHAT = ("val_loss", "loss")


@dataclass(frozen=True)
class Trace:
    """A run's metrics under the name that it shares with others; `seconds` is those of a step."""

    name: str
    rows: Sequence[dict[str, Any]]
    seconds: float | None


def trace(folder: Path, name: str, seconds: float | None, steps: float | None) -> Trace:
    """Return what a run has written; of phase `full` its last stage."""
    paths = [folder / stage / "metrics.jsonl" for stage in _STAGES] + [folder / "metrics.jsonl"]
    rows = next((found for path in paths if (found := read_rows(path))), [])
    return Trace(name, rows, seconds / steps if seconds and steps else None)


def bands(traces: Iterable[Trace]) -> list[dict[str, Any]]:
    """Return points with the mean, the lowest and the highest of all runs of a name.

    Each has `name`, `what`, `step`, `tokens`, perhaps `seconds`, `mean`, `low`, `high`.
    """
    groups: dict[tuple[str, str], list[Trace]] = defaultdict(list)
    for each in traces:
        for what in WHAT:
            groups[each.name, what].append(each)
    return [point for key, group in groups.items() for point in _band(*key, group)]


def _band(name: str, what: str, group: Sequence[Trace]) -> Iterable[dict[str, Any]]:
    steps = {row["step"] for each in group for row in each.rows if _is_number(row.get(what))}
    if not steps:
        return
    width = max(1, -(-max(steps) // _POINTS))
    bins: dict[int, dict[int, list[tuple[float, float, float]]]] = defaultdict(dict)
    for number, each in enumerate(group):
        for row in each.rows:
            if _is_number(row.get(what)):
                place = (row["step"] - 1) // width
                values = bins[place].setdefault(number, [])
                values.append((row["step"], row.get("tokens", 0), row[what]))
    speeds = [each.seconds for each in group if each.seconds is not None]
    for place in sorted(bins):
        means = [_mean(value for _, _, value in own) for own in bins[place].values()]
        step = _mean(step for own in bins[place].values() for step, _, _ in own)
        point = {
            "name": name,
            "what": what,
            "step": step,
            "tokens": _mean(tokens for own in bins[place].values() for _, tokens, _ in own),
            "mean": _mean(means),
            "low": min(means),
            "high": max(means),
        }
        yield point | ({"seconds": step * _mean(speeds)} if speeds else {})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return fsum(found) / len(found)
