"""A study as tables: what is printed, and the CSV files."""

import csv
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from llmlab.report.study import Study
from llmlab.report.tables import columns, human, nats
from llmlab.report.terminal import interval_lines
from llmlab.runs.overrides import Override
from llmlab.runs.record import SWEEP_RECORD
from llmlab.runs.results import read_question
from llmlab.runs.shell import near, shell_command
from llmlab.runs.sweep import duration
from llmlab.study.arms import DIVERGED
from llmlab.study.statistics import Estimate

_WIDEST = 40  # characters of a value
SPENT = ("seconds", "steps", "tokens", "flops", "parameters")
_FIRST = ("loss", "val_loss", "best_val_loss", "best_step", "bits_per_byte", "perplexity")


def write_tables(folder: Path, study: Study) -> None:
    """Write results.csv, a row a job, and summary.csv, a row an arm."""
    _write(folder / "results.csv", _job_rows(study))
    _write(folder / "summary.csv", _arm_rows(study))


def lines(study: Study, jobs: bool = False) -> list[str]:
    """Return what is printed: by what it is ranked, a row an arm, the verdict, the errors."""
    metric, found = study.metric, []
    if metric is not None:
        by = f"{metric.name}, not ranked" if study.refused else f"by {metric.text}"
        found.append(f"{by}; mean over seeds with its 95 % interval")
    found += columns(_arm_cells(study), left=1)
    found += [] if study.refused else _drawn(study)
    if jobs:
        found += ["", *columns(_job_cells(study), left=1)]
    if study.verdict.sentences:
        found += ["", *study.verdict.sentences]
    if study.verdict.more_seeds:
        found += [f"Add seeds: {_more_seeds(study)}"] if _more_seeds(study) else []
    errors = [f"{job.name}: {job.error}" for job in study.sweep.jobs if job.error]
    return [*found, *([""] if errors else []), *errors]


def _drawn(study: Study) -> list[str]:
    rows = []
    for arm in study.arms:
        value = study.estimate(arm)
        if value is not None:
            name = " ".join(shortened(study.sweep.value(arm.settings, key)) for key in study.keys)
            rows.append((name, value.mean, value.low, value.high))
    picture = interval_lines(rows)
    return ["", *picture] if picture else []


def _more_seeds(study: Study) -> str | None:
    """Return the command that adds seeds to a sweep's arms: some to one each, else by itself."""
    folder = study.sweep.folder
    if not (folder / SWEEP_RECORD).is_file():  # runs from anywhere
        return None
    most = max(len(arm.jobs) for arm in study.arms)
    if most > 1:
        asked = [Override.of(text).name for text in read_question(folder).get("overrides", [])]
        known = study.question.seeds is not None or "hydra.sweep.subdir" in asked
        if known or most >= study.question.options.max_seeds:
            return None
        return shell_command(f"resume={near(folder)}", "seeds=auto")
    last = max(job.seed for arm in study.arms for job in arm.jobs)
    seeds = ",".join(str(last + n) for n in range(1, 5))
    return shell_command(f"resume={near(folder)}", f"seed={seeds}")


def _arm_cells(study: Study) -> list[list[str]]:
    has_error = (
        study.metric is not None and study.metric.name == "loss" and _has(study, "loss_error")
    )
    counted = [name for name in ("seconds", "tokens", "parameters") if _has(study, name)]
    budget = any(arm.settings.get("budget", '"none"') != '"none"' for arm in study.arms)
    if study.question.study.get("jobs") is not None and budget:
        counted = [name for name in SPENT if _has(study, name)]
    head = [" ".join(study.keys) or "arm"]
    head += [] if study.metric is None else [study.metric.name, "sd", "95 % interval"]
    head += ["text ±"] if has_error else []
    head += ["seeds", "failed", *("time" if name == "seconds" else name for name in counted)]
    rows = [head]
    for arm in study.arms:
        found, failed = study.estimate(arm), study.failed(arm)
        values = (shortened(study.sweep.value(arm.settings, key)) for key in study.keys)
        row = [" ".join(values) or arm.name]
        if study.metric is not None:
            row += _estimated(found)
        if has_error:
            row.append(number(arm.mean("loss_error")))
        row += [str(len(arm.jobs)), str(failed)]
        row += [spent(name, arm.mean(name)) for name in counted]
        rows.append(row)
    return rows


def _estimated(found: Estimate | None) -> list[str]:
    if found is None:
        return ["-", "-", "-"]
    if found.count < 2:
        return [number(found.mean), "-", "-"]
    return [
        number(found.mean),
        f"{found.deviation:.2g}",
        f"{number(found.low)} to {number(found.high)}",
    ]


def _job_cells(study: Study) -> list[list[str]]:
    name = study.metric.name if study.metric else ""
    others = [each for each in _FIRST if each != name and _has(study, each)]
    rows = [["job", "rank", "seed", *([name] if name else []), *others, "status"]]
    for rank, job in study.ranked_jobs():
        figures = [*([name] if name else []), *others]
        cells = [number(job.values.get(each)) for each in figures]
        rows.append([job.name, str(rank or "-"), str(job.seed), *cells, job.status])
    return rows


def _job_rows(study: Study) -> list[list[Any]]:
    """Return the rows of results.csv; no column is there twice."""
    known = {key for job in study.sweep.jobs for key in job.values}
    figures = [name for name in _FIRST if name in known]
    figures += sorted(known - {*figures, *SPENT}) + [name for name in SPENT if name in known]
    keys = sorted({k for arm in study.arms for k in arm.settings} - {*figures, "seed"})
    rows: list[list[Any]] = [["rank", "job", "status", "seed", *keys, *figures, "error"]]
    for rank, job in study.ranked_jobs():
        values = [study.sweep.value(job.settings, key) for key in keys]
        own = [job.values.get(name) for name in figures]
        rows.append([rank, job.name, job.status, job.seed, *values, *own, job.error])
    return rows


def _arm_rows(study: Study) -> list[list[Any]]:
    head = ["rank", "arm", *study.keys, "metric", "mean", "sd", "low", "high", "seeds", "failed"]
    spent = [name for name in SPENT if _has(study, name)]
    others = [name for name in _FIRST if _has(study, name)]
    rows: list[list[Any]] = [[*head, "diverged", *others, *spent]]
    for place, arm in enumerate(study.arms, 1):
        found = study.estimate(arm)
        has_rank = found is not None and not study.failed(arm) and not study.refused
        rank = place if has_rank else None
        own = [study.sweep.value(arm.settings, key) for key in study.keys]
        figures: list[Any] = [study.metric.name if study.metric else None, *[None] * 4]
        if found is not None:
            ends = (found.deviation, found.low, found.high)
            figures[1:] = [found.mean, *(end if isfinite(end) else None for end in ends)]
        diverged = sum(job.status == DIVERGED for job in arm.jobs)
        counts = [len(arm.jobs), study.failed(arm), diverged]
        means = [arm.mean(name) for name in (*others, *spent)]
        rows.append([rank, arm.name, *own, *figures, *counts, *means])
    return rows


def _has(study: Study, name: str) -> bool:
    return any(name in job.values for job in study.sweep.jobs)


def spent(name: str, value: float | None) -> str:
    """Return a figure of what was spent, or of any metric; `-` for none."""
    if value is None:
        return "-"
    if name == "seconds":
        return duration(value)
    if name == "memory":
        return human(value, "B", 1024)
    if name in SPENT:
        return human(value, "", 1000) if value >= 100_000 else f"{value:,.0f}"
    return number(value)


def shortened(text: str) -> str:
    """Return a value as a cell of a table."""
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def number(value: float | None) -> str:
    """Return a figure of any metric; `-` for none."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else nats(value)


def _write(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
