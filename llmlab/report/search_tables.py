"""A search as tables: trials, Pareto front, importance, and how optimistic its best value was."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from llmlab.report.study import read_study
from llmlab.report.study_tables import number, spent
from llmlab.report.tables import columns
from llmlab.runs.record import BEST_RECORD
from llmlab.runs.shell import near
from llmlab.runs.sweep import shown_value
from llmlab.search.outcome import Ended, Outcome
from llmlab.study.statistics import estimate

MOST = 10  # trials in the table; results.csv has all
_WIDTH = 30
_SPENT = ("parameters", "memory", "seconds")


def lines(outcome: Outcome) -> list[str]:
    """Return what is printed of a search: the best trials, the front, the keys that mattered."""
    counts = Counter(trial.status for trial in outcome.trials)
    kinds = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    names = " and ".join(metric.name for metric in outcome.objectives)
    found = [f"{len(outcome.trials)} trials: {kinds}; by {names}, lower is better"]
    if outcome.trials and not outcome.front:
        found.append("no trial has a result: widen the space, or its constraints")
    elif len(outcome.objectives) > 1:
        found += _table(outcome, outcome.front, "Pareto front: no trial is better in all of these")
    else:
        ranked = outcome.ranked()
        rest = len(ranked) - MOST
        title = f"the best {MOST}; results.csv has all" if rest > 0 else ""
        found += _table(outcome, ranked[:MOST], title)
    if len(outcome.importance) > 1:  # of one key there is nothing to share
        found += ["", "how much each key decides among the better trials (PED-ANOVA)"]
        rows = [
            [key, f"{share:.0%}", _bar(share, outcome)] for key, share in outcome.importance.items()
        ]
        widths = [max(len(row[at]) for row in rows) for at in (0, 1)]
        found += [f"{k.ljust(widths[0])}  {s.rjust(widths[1])}  {bar}" for k, s, bar in rows]
    errors = [f"{t.folder}: {t.result['error']}" for t in outcome.trials if t.result.get("error")]
    return [*found, *([""] if errors else []), *errors]


def optimism(best: dict[str, Any], again: list[float]) -> str:
    """Return a sentence on how much worse the best trial is with new seeds.

    `best` is what best.json says, `again` the same number of the same configuration, of other
    seeds.
    """
    name, value = best["metric"], float(best["value"])
    found = estimate([each - value for each in again])
    mean = value + found.mean
    said = f"The best of {best['trials']} trials had {name} {number(value)}; with "
    if found.count < 2:
        return f"{said}a new seed it is {number(mean)}: two or more seeds give an interval."
    chance = "" if found.low > 0 or found.high < 0 else ", which may be chance"
    said += f"{found.count} new seeds its mean is {number(mean)}: "
    if found.mean < 0:
        between = f"{-found.high:.4f} to {-found.low:.4f}"
        told = f"the new seeds were better by {-found.mean:.4f}, so it wasn't optimistic"
    else:
        between = f"{found.low:.4f} to {found.high:.4f}"
        told = f"the search's value was optimistic by {found.mean:.4f}"
    return f"{said}{told} (95 % interval {between}{chance})."


def optimism_of(search: Path, sweep: Path) -> str | None:
    """Return the sentence on a search whose best configuration a sweep has trained again."""
    try:
        best = json.loads((search / BEST_RECORD).read_text("utf-8"))
        study = read_study(sweep)
        values = [v for arm in study.arms for v in arm.values(str(best["metric"])).values()]
        return optimism(best, values) if values else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def again_folder(search: Path) -> Path:
    """Return where the best configuration is trained again, unless somebody chooses otherwise."""
    return search.with_name(f"{search.name}-best")


def again_lines(search: Path) -> list[str]:
    """Return the sentence of `optimism`, if the best configuration was trained again."""
    sweep = again_folder(search)
    said = optimism_of(search, sweep) if sweep.is_dir() else None
    return [] if said is None else ["", f"{said} ({near(sweep)})"]


def _table(outcome: Outcome, trials: list[Ended], title: str) -> list[str]:
    if not trials:
        return []
    names = [metric.name for metric in outcome.objectives]
    counted = [n for n in _SPENT if n not in names and any(n in t.result for t in trials)]
    short = [_short(key, outcome.keys) for key in outcome.keys]
    rows = [["trial", *names, *short, *("time" if n == "seconds" else n for n in counted)]]
    for trial in trials:
        objectives = [spent(n, v) for n, v in zip(names, trial.values, strict=True)]
        settings = [_setting(trial.settings[key]) for key in outcome.keys]
        others = [spent(name, trial.result.get(name)) for name in counted]
        rows.append([trial.folder, *objectives, *settings, *others])
    return ["", *([title] if title else []), *columns(rows, left=1)]


def _short(key: str, keys: tuple[str, ...]) -> str:
    """Return the last part of a dotted key, if no other key has the same."""
    last = key.rpartition(".")[2]
    return last if sum(k.rpartition(".")[2] == last for k in keys) == 1 else key


def _setting(text: str) -> str:
    shown = shown_value(text)
    try:
        return f"{float(shown):.4g}" if not shown.lstrip("-").isdigit() else shown
    except ValueError:
        return shown


def _bar(share: float, outcome: Outcome) -> str:
    most = max(outcome.importance.values())
    return "█" * round(share / most * _WIDTH) if most > 0 else ""
