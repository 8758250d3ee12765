"""What a search has found: its trials, the best of them, and which keys mattered."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from llmlab.errors import LlmlabError
from llmlab.runs.record import BEST_RECORD
from llmlab.runs.sweep import read_result
from llmlab.search.search import read_record
from llmlab.search.storage import import_optuna, open_storage
from llmlab.study.metric import Metric


@dataclass(frozen=True)
class Ended:
    """A trial that has ended, or that somebody works on."""

    folder: str
    status: str
    settings: Mapping[str, str]  # the values of the keys that are searched
    values: tuple[float, ...]  # of the objectives; none if it has no result
    result: Mapping[str, Any]  # what its job has left


@dataclass(frozen=True)
class Outcome:
    """A search as it stands."""

    folder: Path
    objectives: tuple[Metric, ...]
    keys: tuple[str, ...]
    trials: list[Ended]  # in the order in which they were proposed
    # Those that no other is better than in all objectives, the best of the first one first
    front: list[Ended]
    importance: Mapping[str, float]  # of each key, as a share; none where too few trials tell

    def ranked(self) -> list[Ended]:
        """Return the trials with a result, the best of the first objective first."""
        return sorted((t for t in self.trials if t.values), key=lambda t: (t.values, t.folder))


def read_outcome(folder: Path) -> Outcome:
    """Return what a search's folder tells."""
    record = read_record(folder)
    objectives = tuple(Metric(name[1:], name[:1] == "+") for name in record["objectives"])
    keys = tuple(record["space"])
    trials = [_ended(each, keys, objectives) for each in sorted(folder.glob("trial-[0-9]*"))]
    done = [trial for trial in trials if trial.values]
    front = [t for t in done if not any(_dominates(other.values, t.values) for other in done)]
    front.sort(key=lambda trial: (trial.values, trial.folder))
    importance = _importance(folder, record) if len(objectives) == 1 else {}
    return Outcome(folder, objectives, keys, trials, front, importance)


def note_best(outcome: Outcome) -> Ended | None:
    """Return the best trial, if there is one, and leave it in best.json."""
    from llmlab.atomic_write import replace_text

    if not outcome.front:
        return None
    best = outcome.front[0]
    found = {"trial": best.folder, "metric": outcome.objectives[0].name, "value": best.values[0]}
    found["trials"] = len(outcome.trials)
    replace_text(outcome.folder / BEST_RECORD, json.dumps(found, indent=1) + "\n")
    return best


def _ended(folder: Path, keys: tuple[str, ...], objectives: tuple[Metric, ...]) -> Ended:
    result = read_result(folder) or {"status": "open", "overrides": {}}
    values = [result.get(metric.name) for metric in objectives]
    whole = result["status"] == "finished" and all(
        isinstance(value, int | float) and isfinite(value) for value in values
    )
    settings = {key: result["overrides"].get(key, "-") for key in keys}
    found = tuple(float(v) for v in values if v is not None) if whole else ()
    return Ended(folder.name, result["status"], settings, found, result)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _importance(folder: Path, record: Mapping[str, Any]) -> Mapping[str, float]:
    """Return how much of the variance of the good trials each key explains (PED-ANOVA)."""
    try:
        optuna = import_optuna()
        storage = open_storage(folder, record.get("storage"))
        study = optuna.load_study(study_name=record["study"], storage=storage)
        found = optuna.importance.get_param_importances(study)
    except (LlmlabError, ValueError, RuntimeError, KeyError):
        return {}
    return {key: value for key, value in found.items() if isfinite(value)}
