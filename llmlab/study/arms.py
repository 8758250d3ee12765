"""From the jobs of a sweep to its arms: what differs in nothing but the seed is one arm."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

FINISHED, DIVERGED = "finished", "diverged"


@dataclass(frozen=True)
class Job:
    """One training, or one measurement."""

    name: str
    # What was asked for, without the seed: key to value, written in one way
    settings: Mapping[str, str]
    seed: int
    status: str = FINISHED
    values: Mapping[str, float] = field(default_factory=dict)  # the numbers that it reports
    # What makes its numbers comparable, such as hashes of text and tokenizer
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    exit_code: int = 1

    def value(self, metric: str) -> float | None:
        """Return a number that the job reports; None if it has none, or isn't finished."""
        found = self.values.get(metric) if self.status == FINISHED else None
        return found if found is not None and isfinite(found) else None


@dataclass(frozen=True)
class Arm:
    """All jobs that differ in nothing but the seed; each seed counts once."""

    name: str
    settings: Mapping[str, str]
    jobs: Sequence[Job]

    def values(self, metric: str) -> dict[int, float]:
        """Return the metric by seed, of the jobs that have one."""
        found = ((job.seed, job.value(metric)) for job in self.jobs)
        return {seed: value for seed, value in found if value is not None}

    def failed(self, metric: str) -> list[Job]:
        """Return the jobs that ended without the metric: failed, diverged, stopped."""
        return [job for job in self.jobs if job.value(metric) is None]

    def mean(self, name: str) -> float | None:
        """Return the mean of any number over the jobs that have it."""
        found = list(self.values(name).values())
        return sum(found) / len(found) if found else None


def arms_of(jobs: Iterable[Job], shown: Mapping[tuple[str, str], str] | None = None) -> list[Arm]:
    """Return the arms in the order in which their first jobs come.

    `shown` says how a person reads the value of a key; others stand as they are.
    """
    groups: dict[tuple[tuple[str, str], ...], dict[int, Job]] = {}
    for job in jobs:
        group = groups.setdefault(tuple(sorted(job.settings.items())), {})
        before = group.get(job.seed)
        if before is None or (before.status != FINISHED and job.status == FINISHED):
            group[job.seed] = job
    settings = [dict(key) for key in groups]
    keys = varying_keys(settings)
    arms = []
    for own, group in zip(settings, groups.values(), strict=True):
        words = [
            f"{key}={(shown or {}).get((key, own[key]), own[key])}" for key in keys & own.keys()
        ]
        name = " ".join(sorted(words)) or ("all jobs" if len(settings) == 1 else "default")
        arms.append(Arm(name, own, tuple(group[seed] for seed in sorted(group))))
    return arms


def varying_keys(settings: Sequence[Mapping[str, str]]) -> set[str]:
    """Return the keys in which mappings differ."""
    keys = {key for each in settings for key in each}
    return {key for key in keys if len({each.get(key) for each in settings}) > 1}
