"""Phase `search`: what is searched, and how; the sweep of that phase runs the trials."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from llmlab.errors import ConfigError, suggest
from llmlab.search.samplers import PRUNERS, SEARCH_SAMPLERS
from llmlab.search.storage import check_url
from llmlab.search.trial import Limit
from llmlab.study.metric import Metric

TRIED = ("pretrain", "tune")
# What trainings report and a search can make small.
OBJECTIVES = ("val_loss", "best_val_loss", "bits_per_byte", "loss")
OBJECTIVES += ("parameters", "seconds", "flops", "steps", "tokens")
LIMITS = ("parameters", "memory", "flops")
_BY_TOKEN = ("val_loss", "best_val_loss", "loss")
_LIMIT = re.compile(r"(?P<name>\w+)<=(?P<most>[\d.]+(e\+?\d+)?)(?P<unit>[kKMGT]?i?)B?")
_UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGT", 1)} | {"ki": 1024.0}


@dataclass(frozen=True)
class Options:
    """The arguments of the phase, checked; see `run`."""

    phase: str
    trials: int
    workers: int | None
    sampler: Any
    pruner: Any
    objectives: tuple[Metric, ...]
    limits: tuple[Limit, ...]
    space: Mapping[str, Any]
    storage: str | None
    seed: int


def run(
    config: Any,  # has `metric` and `direction`
    run: None = None,
    phase: str = "pretrain",  # what each trial runs: pretrain or tune
    trials: int = 40,  # how many there are to be
    workers: int | None = None,  # that the launcher starts; each works on one trial at a time
    # How the next trial is chosen, and when one is given up
    sampler: Annotated[Any, SEARCH_SAMPLERS] = "tpe",
    pruner: Annotated[Any, PRUNERS] = None,
    # The numbers to make small; by default `metric`, else val_loss
    objectives: list[str] | None = None,
    # What is refused before training: `parameters<=1e6 memory<=2GiB`
    constraints: str | None = None,
    space: dict[str, Any] | None = None,  # values by key, as on the command line, which adds more
    storage: str | None = None,  # a PostgreSQL's URL; None: a journal in the search's folder
    seed: int = 0,  # of the sampler; `seed=` is that of the trainings
) -> dict[str, Any]:
    """Return the options of a search, checked."""
    problems: list[str] = []
    if phase not in TRIED:
        problems.append(f"search.phase={phase}: must be one of: {', '.join(TRIED)}")
    for name, count in (("trials", trials), ("workers", workers)):
        if count is not None and count < 1:
            problems.append(f"search.{name}={count}: must be at least 1")
    metrics = _objectives(objectives, config, problems)
    kind = sampler if isinstance(sampler, str) else sampler.get("type")
    if len(metrics) > 1 and kind == "cmaes":
        problems.append("search.sampler=cmaes: takes one objective; use tpe or gp for several")
    if pruner is not None and [m.name for m in metrics] not in (["val_loss"], ["best_val_loss"]):
        problems.append("search.pruner: decides by val_loss; make that the only objective")
    limits = _limits(constraints, problems)
    if storage is not None:
        check_url(storage)
    _refuse_mixed_tokens(space or {}, metrics, problems)
    if problems:
        raise ConfigError(problems)
    found = (sampler, pruner, metrics, limits, space or {}, storage, seed)
    return {"options": Options(phase, trials, workers, *found)}


def _refuse_mixed_tokens(
    keys: Mapping[str, Any], metrics: Sequence[Metric], problems: list[str]
) -> None:
    """Refuse to compare nats per token where tokenizers differ."""
    for metric in metrics:
        if metric.name in _BY_TOKEN and any(key.split(".")[0] == "tokenizer" for key in keys):
            problems.append(
                f"{metric.name}: counted by token, and the tokenizer is searched; "
                "metric=bits_per_byte compares them"
            )


def _objectives(names: list[str] | None, config: Any, problems: list[str]) -> tuple[Metric, ...]:
    if names is not None and config.metric is not None:
        problems.append("metric: search.objectives says what to compare by; leave one of them out")
    where = "metric" if names is None else "search.objectives"
    given = [config.metric or "val_loss"] if names is None else list(names)
    if len(set(given)) < len(given) or not given:
        problems.append(f"{where}: each objective once, and at least one")
    for name in given:
        if name not in OBJECTIVES:
            known = f"known: {', '.join(OBJECTIVES)}"
            problems.append(
                f"{where}={name}: no such objective{suggest(name, OBJECTIVES)}; {known}"
            )
    if config.direction == "higher":
        problems.append("direction=higher: all that a search compares by is better when lower")
    return tuple(Metric(name) for name in given)


def _limits(text: str | None, problems: list[str]) -> tuple[Limit, ...]:
    found = []
    for word in (text or "").split():
        match = _LIMIT.fullmatch(word)
        if match is None or match["name"] not in LIMITS or not float(match["most"]):
            problems.append(
                f"search.constraints={word}: expected NAME<=NUMBER, such as parameters<=1e6 or "
                f"memory<=2GiB; known: {', '.join(LIMITS)}"
            )
            continue
        found.append(Limit(match["name"], float(match["most"]) * _UNITS[match["unit"]]))
    return tuple(found)
