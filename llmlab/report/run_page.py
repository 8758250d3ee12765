"""The page of a run: what is out of the ordinary, its curves, a look inside, samples, settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.report import run_charts as charts
from llmlab.report.page import Chart, Page, Table
from llmlab.report.study_page import about
from llmlab.report.study_tables import number
from llmlab.report.tables import human
from llmlab.runs.record import read_record
from llmlab.runs.shell import near, shell_command
from llmlab.train.findings import Finding

Rows = Sequence[Mapping[str, Any]]
Part = Chart | Table | tuple[str, str]

# Of the results of a run, in this order.
_FIGURES = ("loss", "val_loss", "best_val_loss", "best_step", "bits_per_byte", "steps", "tokens")
_SPENT = ("flops", "parameters", "skipped")
_MOST_SAMPLES = 30
_LONGEST = 400  # characters of a sample


@dataclass(frozen=True)
class StageRows:
    """What a stage of a run has left."""

    name: str
    folder: Path
    # Rows of metrics.jsonl, watch.jsonl and samples.jsonl; the last two may be empty.
    metrics: Rows
    watched: Rows
    samples: Rows
    findings: Sequence[Finding]  # what is out of the ordinary in them


def run_page(folder: Path, stages: Sequence[StageRows]) -> Page:
    """Return the page of a run."""
    record = read_record(folder)
    parts: list[Part] = []
    for stage in stages:
        parts += _stage_parts(stage, f"{stage.name}: " if stages[1:] else "")
    results = record.get("results") or {}
    shown = [name for name in (*_FIGURES, *_SPENT) if results.get(name) is not None]
    if shown:
        rows = [[name, _figure(name, results[name])] for name in shown]
        parts.append(Table("Results", ["what", "value"], rows))
    parts += about([folder])
    command, more = shell_command(*record["overrides"]), shell_command(f"resume={near(folder)}")
    parts.append(("Command", f"{command}\n\nto go on with it: {more}"))
    parts.append(("Configuration", _config(folder)))
    seconds = record.get("seconds")
    spent = f", {seconds:,.0f} s" if seconds is not None else ""
    note = f"{near(folder)}: phase {record['phase']}, {record['status']}{spent}"
    sentences = [_capital(each) for stage in stages for each in _sentences(stage, bool(stages[1:]))]
    error = [f"It ended with an error: {results['error']}"] if results.get("error") else []
    return Page(folder.name, note, [*error, *sentences], parts)


def _sentences(stage: StageRows, several: bool) -> list[str]:
    before = f"{stage.name}: " if several else ""
    if not stage.metrics:
        return [f"{before}no step was done."]
    if stage.findings:
        return [f"{before}{finding.sentence}." for finding in stage.findings]
    seen = "" if stage.watched else ", as far as losses tell; callbacks.watch.every=20 tells more"
    return [f"{before}nothing is out of the ordinary{seen}."]


def _capital(sentence: str) -> str:
    return sentence if "." in sentence.split()[0] else sentence[:1].upper() + sentence[1:]


def _stage_parts(stage: StageRows, before: str) -> list[Part]:
    parts: list[Part] = []
    found = [
        charts.loss_chart(stage.metrics, f"{before}loss"),
        charts.line(stage.metrics, "lr", f"{before}learning rate"),
        charts.line(stage.metrics, "grad_norm", f"{before}norm of the gradient, before clipping"),
        *(charts.heat_chart(stage.watched, what, before) for what in charts.HEAT),
    ]
    parts += [chart for chart in found if chart is not None]
    if stage.samples:
        lines = [
            f"step {row['step']:,}: {_cut(each['prompt'])} → {_cut(each['text'])}"
            for row in stage.samples[-_MOST_SAMPLES:]
            for each in row["samples"]
        ]
        parts.append((f"{before}samples", "\n".join(lines)))
    return parts


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _figure(name: str, value: Any) -> tuple[str, Any]:
    return (human(value, "", 1000) if name in _SPENT else number(value), value)


def _config(folder: Path) -> str:
    try:
        return (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "config.yaml isn't there"
