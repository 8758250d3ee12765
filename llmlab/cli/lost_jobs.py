"""Jobs that a lost worker has left are taken up again, through any launcher."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn

from llmlab.cli.job_result import shown
from llmlab.cli.sweep_job import failed
from llmlab.errors import ResourceError
from llmlab.runs.log import PREEMPTED
from llmlab.runs.overrides import Override
from llmlab.runs.sweep import RESULT, Jobs, read_result, write_result

MOST_LOSSES = 3  # in a row, without any job having ended
LOST = JobReturn()  # of a job whose worker has died
CANCELLED = JobReturn()  # of a job that somebody has cancelled, who won't want it started again

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]


def launched(launch: Launch, batch: list[list[str]], number: int, jobs: Jobs) -> Iterator[Any]:
    """Run a batch of jobs with `launch`; yield what came of each that ended.

    A job whose worker died, or was preempted for good, is launched again and goes on from its
    last checkpoint. If that ends no job several times in a row, those that are left have failed.
    """
    losses = 0
    while batch:
        before = [_mark(jobs, tokens) for tokens in batch]
        left, helped = [], False
        for tokens, mark, done in zip(batch, before, _outcomes(launch, batch, number), strict=True):
            result = read_result(_folder(jobs, tokens)) or {}
            new = _mark(jobs, tokens) != mark
            if done is CANCELLED:
                _note_cancelled(jobs, tokens, new)
            elif done is not LOST:
                yield done
            elif not _has_ended(result, tokens, new):
                left.append(tokens)
                helped |= new
        losses = 0 if helped or len(left) < len(batch) else losses + 1
        if losses == MOST_LOSSES:
            return _give_up(jobs, left)
        if left:
            names = ", ".join(jobs.name(tokens) for tokens in left)
            print(f"taken up again, since their workers are gone: {names}", flush=True)
        batch = left


def _outcomes(launch: Launch, batch: list[list[str]], number: int) -> Sequence[JobReturn]:
    """Launch a batch; of one that broke nothing is known but what its jobs have left."""
    try:
        return launch(batch, number)
    except Exception as error:
        of_ray = type(error).__module__.startswith("ray.exceptions")
        if not isinstance(error, BrokenExecutor) and not of_ray:
            raise
        return [LOST] * len(batch)


def _has_ended(result: dict[str, Any], tokens: Sequence[str], new: bool) -> bool:
    """Tell whether a job of which its launcher knows nothing has a result all the same."""
    if result.get("status") == "finished" and result["overrides"] == shown(tokens):
        return True
    return new and result["status"] != PREEMPTED


def _note_cancelled(jobs: Jobs, tokens: Sequence[str], has_result: bool) -> None:
    print(f"cancelled on the cluster: {jobs.name(tokens)}", flush=True)
    if not has_result:
        error = ResourceError("cancelled on the cluster")
        write_result(_folder(jobs, tokens), failed(tokens, error) | {"status": "stopped"})


def _give_up(jobs: Jobs, left: Sequence[Sequence[str]]) -> None:
    """Leave a result for each job, so that the table is complete."""
    reason = f"its worker died {MOST_LOSSES} times"
    error = ResourceError(f"{reason}, most often for lack of memory; see what the launcher logs")
    if any(Override.of(text).name == "hydra.sweep.subdir" for text in jobs.tokens):
        raise error  # their folders have names of their own
    for tokens in left:
        write_result(_folder(jobs, tokens), failed(tokens, error))


def _folder(jobs: Jobs, tokens: Sequence[str]) -> Path:
    return jobs.folder / jobs.name(tokens)


def _mark(jobs: Jobs, tokens: Sequence[str]) -> tuple[int, int] | None:
    """Return what tells a job's result from the next one: it is replaced, never rewritten."""
    try:
        found = os.stat(_folder(jobs, tokens) / RESULT)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
