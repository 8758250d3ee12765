"""The results of a sweep's jobs as a study sees them, and the best of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.errors import CheckpointError, ConfigError
from llmlab.runs.overrides import identity, value_of
from llmlab.runs.record import BEST_RECORD, SWEEP_RECORD
from llmlab.runs.stored import BEST, read_stored
from llmlab.runs.sweep import read_sweep, results, shown_value
from llmlab.study.arms import Arm, Job, arms_of
from llmlab.study.metric import Metric, choose, refusal

# Of result.json: what the job was, and not what came out of it.
_ABOUT = ("status", "overrides", "task", "error", "exit_code", "seed")
_HASH = "_sha256"


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep, by arms."""

    folder: Path
    jobs: list[Job]
    arms: list[Arm]
    # How a person reads the values of `settings`, which are written in one way for machines
    shown: Mapping[tuple[str, str], str]

    def value(self, settings: Mapping[str, str], key: str) -> str:
        """Return the value of a key as a person reads it; `-` where it wasn't given."""
        return self.shown.get((key, settings[key]), settings[key]) if key in settings else "-"


def read_results(folder: Path) -> Sweep:
    """Return the jobs of a sweep that have ended."""
    former = read_question(folder).get("changed") or {}
    jobs = [job_of(name, result, former) for name, result in results(folder)]
    shown = shown_settings(jobs)
    return Sweep(folder, jobs, arms_of(jobs, shown), shown)


def job_of(name: str, result: Mapping[str, Any], former: Mapping[str, str | None]) -> Job:
    """Return what a result says of a job; `former` is of keys that were changed for all."""
    tokens = result.get("task") or [f"{k}={v}" for k, v in result["overrides"].items()]
    settings = identity(tokens, former)
    seed = value_of(settings.pop("seed", "0"))
    return Job(
        name,
        settings,
        result.get("seed", seed if isinstance(seed, int) else 0),
        result["status"],
        {k: v for k, v in result.items() if k not in _ABOUT and _is_number(v)},
        {k.removesuffix(_HASH): v for k, v in result.items() if k.endswith(_HASH)},
        result.get("error"),
        result.get("exit_code", 1),
    )


def shown_settings(jobs: list[Job]) -> dict[tuple[str, str], str]:
    """Return how a person reads each value of the jobs' settings."""
    return {(k, v): _shown(k, v) for job in jobs for k, v in job.settings.items()}


def read_question(folder: Path) -> dict[str, Any]:
    """Return a sweep's record; an empty one before its first job."""
    return read_sweep(folder) if (folder / SWEEP_RECORD).is_file() else {}


def find_baseline(arms: list[Arm], text: str | None) -> str | None:
    """Return the name of the arm that `baseline=` means: by some of its keys, as they are typed."""
    if text is None:
        return None
    wanted = identity(text.split())
    found = [arm.name for arm in arms if wanted.items() <= arm.settings.items()]
    if len(found) == 1:
        return found[0]
    names = "; ".join(arm.name for arm in arms)
    raise ConfigError(
        f"baseline={text}: {len(found) or 'no'} arm{'s' * (len(found) != 1)} of this sweep; write "
        f"the values of one of: {names}"
    )


def ranked_jobs(jobs: list[Job], metric: Metric) -> list[tuple[int | None, Job]]:
    """Return the jobs with their rank, the best first; those without the metric have none."""
    valued = [(job.value(metric.name), job) for job in jobs]
    good = [(-metric.gain(value), job.name, job) for value, job in valued if value is not None]
    best = sorted(good, key=lambda each: each[:2])
    ranks: list[tuple[int | None, Job]] = [(n, job) for n, (_, _, job) in enumerate(best, 1)]
    return ranks + [(None, job) for value, job in valued if value is None]


def best_job(folder: Path) -> tuple[Path, str]:
    """Return the folder of a sweep's job of rank 1, and by what it is that.

    Of a search that has ended it is the trial that the search found best. A CheckpointError says
    that no job has finished, or that their numbers can't be compared.
    """
    asked = read_question(folder).get("question") or {}
    sweep = read_results(folder)
    if (folder / BEST_RECORD).is_file():
        best = read_stored(folder / BEST_RECORD, BEST, tuple(BEST))
        if any(job.name == best["trial"] for job in sweep.jobs):
            found = f"the best of {best['trials']} trials by {best['metric']} {best['value']:.4f}"
            return folder / best["trial"], found
    metric = choose(sweep.jobs, asked.get("metric"), asked.get("direction"))
    if reason := refusal(sweep.arms, metric):
        raise CheckpointError(f"{folder}: no job is the best: {reason}; or name one of its runs")
    rank, job = next(iter(ranked_jobs(sweep.jobs, metric)), (None, None))
    if job is None or rank is None:
        raise CheckpointError(f"{folder}: no job of this sweep has finished; name one of its runs")
    by = f"{metric.text.partition(',')[0]} {job.value(metric.name):.4f}"
    return folder / job.name, f"rank 1 of its sweep by {by}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(key: str, value: str) -> str:
    """Return a value for people; of a checkpoint its run, too, since files are named by steps."""
    path = value_of(value)
    if key == "checkpoint" and isinstance(path, str) and path.endswith(".npz"):
        parts = Path(path).parts
        return "/".join([*parts[-3:-2], parts[-1]])
    return shown_value(value)
