"""The page of a study: verdict, arms, curves, the metric over each key, what was different."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.named import flat
from llmlab.report.page import HOW, Chart, Page, Table, can_draw, write_page
from llmlab.report.study import Study
from llmlab.report.study_charts import study_charts
from llmlab.report.study_tables import SPENT, number
from llmlab.report.tables import human
from llmlab.runs.overrides import Override
from llmlab.runs.record import RECORD, read_config, read_record
from llmlab.runs.results import read_question
from llmlab.runs.shell import near, shell_command

_OF_A_RUN = ("typed", "seed", "resume", "chat", "question", "threads")
_MOST_JOBS = 200  # in the table


def draw(folder: Path, study: Study) -> str:
    """Draw the page of a sweep where that can be; return the line that says where, or how."""
    if not can_draw():
        return HOW
    return f"report: {near(write_page(folder, study_page(folder, study)))}"


def study_page(folder: Path, study: Study) -> Page:
    """Return the page of a sweep."""
    metric = study.metric
    parts: list[Chart | Table | tuple[str, str]] = [_arm_table(study)]
    parts += study_charts(study)
    parts.append(_job_table(study))
    jobs = [folder / job.name for job in study.sweep.jobs]
    names = [arm.name for arm in study.arms]
    firsts = [folder / arm.jobs[0].name for arm in study.arms]
    parts += [*_differences(names, firsts), *about(jobs)]
    note = f"{near(folder)}: {len(study.sweep.jobs)} jobs, {len(study.arms)} arms"
    by = f" Ranked by {metric.text}." if metric is not None and not study.refused else ""
    sentences = study.verdict.sentences or [f"{names[0]}: one arm, so nothing is compared."]
    parts += _command(folder, study)
    title = f"{', '.join(study.keys) or 'sweep'}: {len(study.arms)} arms"
    return Page(title, note + "." + by, sentences, parts)


def _command(folder: Path, study: Study) -> list[tuple[str, str]]:
    """Return the command that makes a sweep with all its seeds, and the one that adds to it."""
    record = read_question(folder)
    if not record:  # of runs from anywhere
        return []
    tokens = [Override.of(text) for text in record.get("overrides", [])]
    alone = study.question.seeds is not None or ("phase", "search") in [
        (each.name, each.value) for each in tokens
    ]
    dropped = {"hydra.sweep.dir", *(() if alone else ("seed",))}
    words = [str(each) for each in tokens if each.name not in dropped]
    if not alone:
        seeds = sorted({job.seed for job in study.sweep.jobs})
        if len(seeds) > 1 or any(each.name == "seed" for each in tokens):
            words.append(f"seed={','.join(map(str, seeds))}")
        words = ["-m", *words]
    made = shell_command(*words, f"hydra.sweep.dir={near(folder)}")
    more = shell_command(f"resume={near(folder)}")
    return [("Command", f"{made}\n\nadd to it: {more}")]


def about(runs: Sequence[Path]) -> list[tuple[str, str]]:
    """Return on what machine and with what versions runs were made, from the first's record."""
    for folder in runs:
        try:
            record = read_record(folder) if (folder / RECORD).is_file() else None
        except CheckpointError:
            continue
        if record is not None:
            versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items() if v)
            git = record.get("git") or {}
            changed = " with changes" if git.get("dirty") else ""
            revision = f"{git['revision']}{changed}" if git.get("revision") else "unknown"
            lines = [f"made {record['created']}", versions, f"revision {revision}"]
            lines.append(f"{record['cpu']}, {record['cpus']} cores, {record['platform']}")
            return [("Environment", "\n".join(lines))]
    return []


def _arm_table(study: Study) -> Table:
    metric = study.metric.name if study.metric else None
    spent = [n for n in SPENT if any(n in job.values for job in study.sweep.jobs)]
    figures = [metric, "sd", "low", "high"] if metric else []
    rows = []
    for arm in study.arms:
        found = study.estimate(arm)
        values: list[float | None] = [None] * len(figures)
        if found is not None and figures:
            ends = (found.deviation, found.low, found.high)
            values = [found.mean, *(end if isfinite(end) else None for end in ends)]
        cells: list[Any] = [arm.name, *((number(value), value) for value in values)]
        cells += [str(len(arm.jobs)), str(study.failed(arm))]
        cells += [_spent(arm.mean(name)) for name in spent]
        rows.append(cells)
    head = ["arm", *map(str, figures), "seeds", "failed", *spent]
    title = "Arms, with the 95 % interval of the mean"
    title += "; these numbers aren't alike, so there are no ranks" if study.refused else ""
    return Table(title, head, rows)


def _job_table(study: Study) -> Table:
    jobs = study.sweep.jobs
    first = ["loss", "val_loss", "best_val_loss", "bits_per_byte"]
    names = [name for name in first if any(name in job.values for job in jobs)]
    rows = [
        [
            job.name,
            (rank or "-", rank),
            str(job.seed),
            *((number(job.values.get(name)), job.values.get(name)) for name in names),
            job.status,
        ]
        for rank, job in study.ranked_jobs()[:_MOST_JOBS]
    ]
    more = f", the first {_MOST_JOBS} of {len(jobs)}" if len(jobs) > _MOST_JOBS else ""
    return Table(f"Jobs{more}", ["job", "rank", "seed", *names, "status"], rows)


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the keys in which configurations differ, dotted, with the value in each."""
    own = [{k: v for k, v in config.items() if k not in _OF_A_RUN} for config in configs]
    texts = [{k: "null" if v is None else str(v) for k, v in flat(each)} for each in own]
    keys = dict.fromkeys(key for each in texts for key in each)
    table = {key: [each.get(key, "-") for each in texts] for key in keys}
    return {key: values for key, values in table.items() if len(set(values)) > 1}


def _differences(names: Sequence[str], runs: Sequence[Path]) -> list[Table]:
    configs = [read_config(run) or {} for run in runs]
    found = differences(configs)
    if len(configs) < 2 or not found:
        return []
    rows = [[key, *values] for key, values in found.items()]
    return [Table("What their configurations differ in", ["key", *names], rows)]


def _spent(value: float | None) -> tuple[str, float | None]:
    return ("-" if value is None else human(value, "", 1000), value)
