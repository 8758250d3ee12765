"""What a sweep tells: arms with intervals, a verdict, and the files that hold both."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from llmlab.config.study import Question
from llmlab.report.tables import columns, human
from llmlab.runs.results import Sweep, find_baseline, ranked_jobs, read_question, read_results
from llmlab.runs.shell import near, shell_command
from llmlab.runs.sweep import duration
from llmlab.study.arms import DIVERGED, FINISHED, Arm, varying_keys
from llmlab.study.metric import Metric, choose
from llmlab.study.sequential import Rule, comparisons, decide
from llmlab.study.statistics import Estimate, estimate
from llmlab.study.verdict import Verdict, judge, judge_auto, ranked

SPENT = ("seconds", "steps", "tokens", "flops", "parameters")
_FIRST = ("loss", "val_loss", "best_val_loss", "best_step", "bits_per_byte", "perplexity")
_NO_CLAIM = Verdict([])


@dataclass(frozen=True)
class Study:
    """A sweep's arms, the best first, and what they say.

    Attributes
    ----------
    metric
        None if its jobs report no number to compare.
    keys
        In which the arms differ.
    """

    sweep: Sweep
    question: Question
    metric: Metric | None
    arms: list[Arm]
    keys: list[str]
    verdict: Verdict

    def estimate(self, arm: Arm) -> Estimate | None:
        """Return the metric's mean over an arm's seeds with its interval, if it has any."""
        values = [] if self.metric is None else list(arm.values(self.metric.name).values())
        return estimate(values) if values else None

    def failed(self, arm: Arm) -> int:
        """Return how many of an arm's jobs have no result."""
        if self.metric is None:
            return sum(job.status != FINISHED for job in arm.jobs)
        return len(arm.failed(self.metric.name))


def read_study(folder: Path) -> Study:
    """Return the study that a sweep's folder holds, judged.

    Raises
    ------
    ConfigError
        `metric` or `baseline` names something that isn't there.
    """
    record, sweep = read_question(folder), read_results(folder)
    question = Question.of(record["question"]) if "question" in record else None
    question = question or Question(study={"alpha": 0.05})
    metric: Metric | None = choose(sweep.jobs, question.metric, question.direction)
    assert metric is not None
    if not any(arm.values(metric.name) for arm in sweep.arms):
        metric = None
    keys = sorted(varying_keys([arm.settings for arm in sweep.arms]))
    arms = ranked(sweep.arms, metric) if metric else sweep.arms
    verdict = _judged(arms, metric, question, record) if metric else _NO_CLAIM
    return Study(sweep, question, metric, arms, keys, verdict)


def _judged(arms: list[Arm], metric: Metric, question: Question, record: dict[str, Any]) -> Verdict:
    if len(arms) < 2:
        return judge(arms, metric)
    baseline = find_baseline(arms, question.baseline)
    auto = record.get("auto")
    if auto is None:
        return judge(arms, metric, baseline, question.study["alpha"])
    options = question.options
    rule = Rule(options.alpha, options.resolution, options.max_seeds)
    asked = [arm for own in auto["arms"] for arm in arms if dict(arm.settings) == own]
    results = {
        arm.name: {
            job.seed: job.value(metric.name) for job in arm.jobs if job.seed in auto["seeds"]
        }
        for arm in asked
    }
    decision = decide(results, auto["seeds"], rule, metric, baseline)
    level = rule.level(len(comparisons(list(results), baseline)))
    found = judge_auto(asked, metric, decision, rule.alpha, level, baseline)
    if decision.wanted:
        found.sentences.append(f"Not finished: at most {decision.at_most} jobs are left.")
    return found


def write_tables(folder: Path, study: Study) -> None:
    """Write results.csv, a row a job, and summary.csv, a row an arm."""
    _write(folder / "results.csv", _job_rows(study))
    _write(folder / "summary.csv", _arm_rows(study))


def lines(study: Study, jobs: bool = False) -> list[str]:
    """Return what is printed: by what it is ranked, a row an arm, the verdict, the errors."""
    metric, found = study.metric, []
    if metric is not None:
        found.append(f"by {metric.text}; mean over seeds with its 95 % interval")
    found += columns(_arm_cells(study), left=1)
    if jobs:
        found += ["", *columns(_job_cells(study), left=1)]
    if study.verdict.sentences:
        found += ["", *study.verdict.sentences]
    if study.verdict.more_seeds:
        found += [f"Add seeds: {_more_seeds(study)}"] if _more_seeds(study) else []
    errors = [f"{job.name}: {job.error}" for job in study.sweep.jobs if job.error]
    return [*found, *([""] if errors else []), *errors]


def _more_seeds(study: Study) -> str | None:
    """Return the command that adds seeds to arms that have one each."""
    most = max(len(arm.jobs) for arm in study.arms)
    if most > 1:
        return None
    last = max(job.seed for arm in study.arms for job in arm.jobs)
    seeds = ",".join(str(last + n) for n in range(1, 5))
    return shell_command(f"resume={near(study.sweep.folder)}", f"seed={seeds}")


def _arm_cells(study: Study) -> list[list[str]]:
    has_error = (
        study.metric is not None and study.metric.name == "loss" and _has(study, "loss_error")
    )
    spent = [name for name in ("seconds", "tokens", "parameters") if _has(study, name)]
    if study.question.study.get("jobs") is not None and _has_budget(study):
        spent = [name for name in SPENT if _has(study, name)]
    head = [" ".join(study.keys) or "arm"]
    head += [] if study.metric is None else [study.metric.name, "sd", "95 % interval"]
    head += ["text ±"] if has_error else []
    head += ["seeds", "failed", *("time" if name == "seconds" else name for name in spent)]
    rows = [head]
    for arm in study.arms:
        found, failed = study.estimate(arm), study.failed(arm)
        row = [" ".join(study.sweep.value(arm.settings, key) for key in study.keys) or arm.name]
        if study.metric is not None:
            row += _estimated(found)
        if has_error:
            row.append(number(arm.mean("loss_error")))
        row += [str(len(arm.jobs)), str(failed)]
        row += [_spent(name, arm.mean(name)) for name in spent]
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
    for rank, job in _ranked(study):
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
    for rank, job in _ranked(study):
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
        rank = place if found is not None and not study.failed(arm) else None
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


def _ranked(study: Study) -> Iterable[tuple[int | None, Any]]:
    if study.metric is not None:
        return ranked_jobs(study.sweep.jobs, study.metric)
    return [(None, job) for job in study.sweep.jobs]


def _has(study: Study, name: str) -> bool:
    return any(name in job.values for job in study.sweep.jobs)


def _has_budget(study: Study) -> bool:
    return any(arm.settings.get("budget", '"none"') != '"none"' for arm in study.arms)


def _spent(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name == "seconds":
        return duration(value)
    return human(value, "", 1000) if value >= 100_000 else f"{value:,.0f}"


def number(value: float | None) -> str:
    """Return a figure with four places, or as short as it is; `-` for none."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.4g}"


def _write(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
