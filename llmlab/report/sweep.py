"""The table that a sweep prints, and its results.csv."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llmlab.report.tables import columns, nats
from llmlab.runs.sweep import results, shown_value

FIGURES = ("loss", "val_loss", "perplexity", "tokens", "steps")


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the results of a sweep's jobs with their names under "job", the best first."""
    rows = [{**result, "job": name} for name, result in results(folder)]
    return sorted(rows, key=lambda row: (_rank(row), row["job"]))


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a row a job: rank, figures, what was overridden, error."""
    keys = _keys(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "job", "status", *FIGURES, *keys, "error"])
        for rank, row in enumerate(rows, 1):
            figures = [row.get(name) for name in FIGURES]
            values = [row["overrides"].get(key) for key in keys]
            writer.writerow([rank, row["job"], row["status"], *figures, *values, row.get("error")])


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows as lines, with the keys in which they differ; then the errors."""
    keys = [k for k in _keys(rows) if len({str(row["overrides"].get(k)) for row in rows}) > 1]
    figures = [name for name in FIGURES if any(row.get(name) is not None for row in rows)]
    cells = [["rank", *figures, *keys, "status", "job"]]
    for rank, row in enumerate(rows, 1):
        numbers = [_number(row.get(name)) for name in figures]
        values = [shown_value(row["overrides"].get(key)) for key in keys]
        cells.append([str(rank), *numbers, *values, row["status"], row["job"]])
    lines = columns(cells, left=len(cells[0]))
    return lines + [f"{row['job']}: {row['error']}" for row in rows if row.get("error")]


def _keys(rows: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row["overrides"]))


def _rank(row: dict[str, Any]) -> tuple[bool, float]:
    loss = row.get("loss")
    return row["status"] != "finished", math.inf if loss is None else loss


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return nats(value) if isinstance(value, float) else str(value)
