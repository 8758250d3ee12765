"""What a training run leaves to look at: the curve of its loss, as a picture and as one line."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from llmlab.atomic_write import make_folder, replace_text
from llmlab.report.svg import Curve, line_chart
from llmlab.report.terminal import shown_by
from llmlab.runs.shell import near
from llmlab.train.rows import read_rows

log = logging.getLogger("llmlab")

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = "_.-~=+*#"  # for terminals that have no blocks

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """A stage's curve in short."""

    rows: list[dict[str, Any]]  # of its metrics.jsonl
    # Mean loss of the last epoch's target tokens, in nats; None if no step was finite.
    loss: float | None
    sparkline: str  # one line of the loss, ready to be printed


def summarise(folder: Path) -> Report:
    """Return what a stage's metrics.jsonl says, without writing anything."""
    rows = read_rows(folder / "metrics.jsonl")
    line = sparkline([loss for _, loss in _points(rows, "loss")])
    return Report(rows, last_epoch_loss(rows), line)


def write_report(folder: Path, stage: str) -> Report:
    """Draw `report/loss.svg` from a stage's metrics.jsonl, and log the curve as one line.

    A second line has the validation loss, if it was measured.
    """
    report = summarise(folder)
    rows = report.rows
    picture = make_folder(folder / "report") / "loss.svg"
    loss_svg(rows, picture, title=f"{stage}: loss")
    if report.loss is not None:
        first = _points(rows, "loss")[0][1]
        text = "%s loss %.4g at first %s %.4g, the last epoch's mean, drawn in %s"
        log.info(text, stage, first, report.sparkline, report.loss, near(picture))
    validation = _points(rows, "val_loss")
    if validation:
        step, end = validation[-1]
        at, lowest = min(validation, key=lambda point: point[1])
        text = "%s validation loss %.4f at step %d, lowest %.4f at step %d"
        log.info(text, stage, end, step, lowest, at)
    return report


def last_epoch_loss(rows: Sequence[Row]) -> float | None:
    """Return the mean loss of the last epoch that has one, weighted by target tokens.

    Rows count their tokens from the start of the run, so a row's weight is what it adds.
    """
    total, weight, epoch, before = 0.0, 0.0, None, 0
    for row in rows:
        tokens = row.get("tokens", before + 1)
        added, before = tokens - before, tokens
        if not _finite(row.get("loss")):
            continue
        if row.get("epoch") != epoch:
            total, weight, epoch = 0.0, 0.0, row.get("epoch")
        total += row["loss"] * added
        weight += added
    return total / weight if weight > 0 else None


def loss_svg(rows: Sequence[Row], path: Path, title: str = "loss") -> None:
    """Draw training loss, its moving mean and validation loss over the step as an SVG file.

    `rows` are those of metrics.jsonl; what isn't a finite number is left out.
    """
    train, validation = _points(rows, "loss"), _points(rows, "val_loss")
    curves = []
    if train:
        mean = _moving_mean(train)
        curves.append(Curve("training", train, "#9db8d9", 1.0))
        curves.append(Curve(f"its mean, last {mean[-1][1]:.4g}", mean, "#1f4e8c", 2.2))
    if validation:
        label = f"validation, lowest {min(loss for _, loss in validation):.4g}"
        curves.append(Curve(label, validation, "#d0661b", 1.6, dots=True))
    picture = line_chart(curves, title=title, x_label="step", y_label="nats per token")
    replace_text(path, picture, sync=False)


def sparkline(values: Iterable[float], width: int = 40, encoding: str | None = None) -> str:
    """Return `values` as a line of at most `width` blocks, each the mean of its share.

    If the terminal's `encoding`, by default stdout's, has no blocks, ASCII is used.
    """
    finite = [value for value in values if _finite(value)]
    if not finite:
        return ""
    count = min(width, len(finite))
    edges = [len(finite) * i // count for i in range(count + 1)]
    means = [_mean(finite[a:b]) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    marks = shown_by(encoding, _BLOCKS, _PLAIN)
    scale = (len(marks) - 1) / (high - low) if high > low else 0.0
    return "".join(marks[round((mean - low) * scale)] for mean in means)


def _points(rows: Sequence[Row], key: str) -> list[tuple[float, float]]:
    return [(row["step"], row[key]) for row in rows if "step" in row and _finite(row.get(key))]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(value / len(values) for value in values)  # a sum could overflow


def _moving_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the mean of a window centred at each point that has a whole one.

    So it has no lag, and no kink at its ends, where windows that are cut off would lean inwards.
    """
    size = 2 * (len(points) // 50) + 1
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    middles = [step for step, _ in points[size // 2 :]]
    return [
        (step, (stop - start) / size)
        for step, start, stop in zip(middles, sums, sums[size:], strict=False)
    ]
