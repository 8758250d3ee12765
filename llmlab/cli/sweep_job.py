"""One job of a sweep: its result, whatever becomes of it, in whichever process it runs."""

import logging
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from llmlab.cli.explain import explain, report
from llmlab.cli.job import execute, output_folder, tokens_of
from llmlab.cli.job_result import is_scalar, loss_of, shown
from llmlab.cli.sweep import SweepInterrupted
from llmlab.errors import Diverged, Infeasible, Pruned, Stopped
from llmlab.runs.lock import Held
from llmlab.runs.log import status_of
from llmlab.runs.record import SWEEP_RECORD
from llmlab.runs.start import AnothersFolder, start_of_job
from llmlab.runs.sweep import Jobs, read_result, write_result, write_sweep
from llmlab.signals import orphaned

log = logging.getLogger("llmlab")


def run_sweep_job(composed: Any, typed: Sequence[str], jobs: Jobs, record: dict[str, Any]) -> float:
    """Run one job of a sweep and return its loss; NaN if it failed, which doesn't stop the others.

    The result is left in the job's folder, where a job that has one isn't run again. A folder
    that belongs to another job stays as it is: the refusal gets a folder of its own.

    `record` is what sweep.json is to say as soon as a job of this start does something.
    """
    folder, tokens = output_folder(), tokens_of("task")
    if not (jobs.folder / SWEEP_RECORD).exists():
        write_sweep(jobs.folder, record)
    result: dict[str, Any] = {"status": "finished", "overrides": shown(tokens), "task": tokens}
    before: Mapping[str, Any] | None = None
    began = time.monotonic()
    try:
        for pause in _pauses():
            start = start_of_job(folder, tokens, jobs.former)
            before, began = read_result(folder), time.monotonic()
            ended = before is not None and before["status"] == "finished"
            if before and ended and before["overrides"] == result["overrides"]:
                log.info("%s: already finished", folder.name)
                return loss_of(before)
            try:
                done = execute(composed, typed, start, in_sweep=True, trial=jobs.trial)
                break
            except Held as error:
                _wait(error, pause)
        if before and ended and not done.begun:
            return loss_of(before)  # what was asked for now was never trained
        result |= {"seed": done.seed, "seconds": _seconds(before, began)}
        result |= {name: value for name, value in done.figures.items() if is_scalar(value)}
    except (Pruned, Infeasible) as ending:
        log.info("%s", ending)
        result |= {"status": "pruned" if isinstance(ending, Pruned) else "infeasible"}
        result |= ending.figures if isinstance(ending, Pruned) else {}
        result["seconds"] = _seconds(before, began)
    except (Stopped, KeyboardInterrupt) as error:
        result |= {"status": status_of(error), "error": str(error)}
        _stopped(folder, result | {"seconds": _seconds(before, began)}, jobs.folder, error)
        return math.nan
    except Exception as error:
        report(error)
        result = failed(tokens, error)
        if isinstance(error, AnothersFolder):
            folder = jobs.folder / jobs.name(tokens)
    result |= {} if jobs.trial is None else jobs.trial.facts
    write_sweep(jobs.folder, record)
    write_result(folder, result)
    if jobs.plan is not None and len(jobs.plan.names) > 1:
        print(jobs.plan.progress(jobs.folder), flush=True)
    return loss_of(result)


def failed(tokens: Sequence[str], error: BaseException) -> dict[str, Any]:
    """Return the result of a job that failed."""
    lines, code = explain(error)
    status = "diverged" if isinstance(error, Diverged) else "failed"
    message = "; ".join(lines).replace("error: ", "")
    about = {"status": status, "overrides": shown(tokens), "task": list(tokens)}
    return about | {"error": message, "exit_code": code}


def _pauses() -> Iterator[float]:
    """Yield how long to wait for somebody else who works in the job's folder, in seconds."""
    yield from (0.2, 0.2, 0.5, 1.0, 2.0)
    yield from repeat(5.0)


def _wait(error: Held, pause: float) -> None:
    """Wait for whoever works on this job: most often a worker that is about to end.

    In a sweep without other processes it is somebody else, and an error.
    """
    if _launcher() == "basic":
        raise error
    if pause == 1.0:
        log.warning("%s; this job waits for it", str(error).partition("; ")[0])
    time.sleep(pause)


def _stopped(folder: Path, result: dict[str, Any], sweep: Path, error: BaseException) -> None:
    """Write the result of a job that a signal ended; in this process the sweep ends with it."""
    code = getattr(error, "exit_code", 130)
    write_result(folder, result)
    if orphaned():
        os._exit(code)  # else it would go on with the next job
    if _launcher() == "basic":
        raise SweepInterrupted(sweep, code) from error
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        _leave_to_slurm(signal.Signals(code - 128))


def _leave_to_slurm(received: signal.Signals) -> None:
    """End this process so that SLURM may start the job again, as if it hadn't returned.

    submitit's own handler, which was in place before the run's, requeues at a time limit.
    """
    if received.name == os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "SIGUSR2"):
        try:
            signal.raise_signal(received)
        except Exception as error:  # it has been requeued often enough
            log.warning("%s", error)
    raise SystemExit(128 + received)


def _launcher() -> str | None:
    return HydraConfig.get().runtime.choices.get("hydra/launcher")


def _seconds(before: Mapping[str, Any] | None, began: float) -> float:
    """Return how long all starts of a job took together."""
    return round((before or {}).get("seconds", 0.0) + time.monotonic() - began, 3)
