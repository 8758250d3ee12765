"""Contestants that take turns: processes, interleaving, medians, memory, tables.

Each contestant is a process of its own, so that no thread pool disturbs another's. All but one
sleep while that one works; every round each has a turn, so that whatever else the machine does
meets all of them, and ratios are taken within a round.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("contestants.py")
ALL_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
TRIAL, HOPELESS = 3, 1.3  # rounds, and how many times slower than a sister
PAUSE = 0.2  # seconds before a turn: other thread pools stop spinning, caches are nobody's


class FailedError(Exception):
    """A contestant could not start or go on."""


class Contestant:
    """The parent's end of a process that works on request.

    Parameters
    ----------
    name
        What the tables call it.
    spec
        What `contestants.py` makes it from; PyTorch also learns `threads` from its environment.
    """

    def __init__(self, name: str, spec: Mapping[str, Any]):
        self.name, self.spec = name, dict(spec)
        threads = spec["threads"] if "torch" in spec["kind"] else cores()
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            self.info = self.ask(**self.spec)
        except FailedError:
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise FailedError(f"{self.name}: the process ended") from None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process ended"}
        if "error" in answer:
            raise FailedError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.__exit__(None, None, None)


def serve(make: Callable[[dict[str, Any]], Any]) -> None:
    """Be a contestant: make the worker from the first request, then answer the others.

    A request with `do` calls that method of the worker with the other keys as arguments.
    Standard output is the pipe to the parent, so whatever else prints goes to standard error.
    """
    sink = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(work: Callable[[], Any]) -> None:
        try:
            answer = work() or {}
        except Exception as error:
            if os.environ.get("LLMLAB_DEBUG"):
                raise
            lines = [line for line in str(error).splitlines() if line.strip()]
            answer = {"error": f"{type(error).__name__}: {' '.join(lines[:2])[:300]}"}
        sink.write(json.dumps(answer) + "\n")
        sink.flush()

    worker: Any = None

    def start(spec: dict[str, Any]) -> dict[str, Any]:
        nonlocal worker
        worker = make(spec)
        return getattr(worker, "info", {})

    for line in sys.stdin:
        request = json.loads(line)
        if worker is None:
            reply(lambda request=request: start(request))
        else:
            method = getattr(worker, request.pop("do"))
            reply(lambda method=method, request=request: method(**request))
    if worker is not None and hasattr(worker, "close"):
        worker.close()


def start_all(
    wanted: Iterable[tuple[str, Mapping[str, Any]]],
) -> tuple[dict[str, Contestant], dict[str, str]]:
    """Start contestants one after the other; return those that run, and why others don't."""
    running: dict[str, Contestant] = {}
    failures: dict[str, str] = {}
    for name, spec in wanted:
        print(f"  starting {name}", file=sys.stderr, flush=True)
        try:
            running[name] = Contestant(name, spec)
        except FailedError as error:
            failures[name] = str(error)
    if not running:
        sys.exit("\n".join(["nobody could start:", *failures.values()]))
    return running, failures


def interleave(
    contestants: Mapping[str, Contestant],
    rounds: int,
    request: Callable[[int], Mapping[str, Any]],
) -> dict[str, list[dict[str, Any]]]:
    """Give every contestant a turn in every round; return the answers by name.

    The order rotates, so that nobody always follows the same neighbour. `request(round)` gives
    the arguments of the turn. Variants of one contestant differ in the last word of their names;
    one that is far behind its sisters after some rounds is not asked again.
    """
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        if number == TRIAL:
            names = [name for name in names if not _hopeless(name, answers)]
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            time.sleep(PAUSE)
            answers[name].append(contestants[name].ask(do="turn", **request(number)))
    return answers


def _hopeless(name: str, answers: Mapping[str, list[dict[str, Any]]]) -> bool:
    """Whether another number of threads is better by far."""
    kind = name.rsplit(" ", 1)[0]
    sisters = [other for other in answers if other.rsplit(" ", 1)[0] == kind]
    medians = {s: statistics.median(turn["seconds"] for turn in answers[s]) for s in sisters}
    return name.startswith("torch") and medians[name] > HOPELESS * min(medians.values())


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Return quartiles and median of slow / fast, for the rounds in which both took part."""
    return quartiles([a / b for a, b in zip(slow, fast, strict=False)])


def spread(values: tuple[float, float, float], digits: int = 2) -> str:
    """Write a median with its quartiles."""
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low} to {high})"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a markdown table; the first column is text, the others are figures."""
    rows = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows
    ]
    rule = [":" + "-" * (w - 1) if not i else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit(count: int) -> None:
    """Keep this process, and those that it starts, to the first `count` cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, ALL_CORES[:count])


def family() -> list[int]:
    """Return this process and all that descend from it."""
    found, waiting = [], [os.getpid()]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            waiting += map(int, task.read_text().split())
    return found


def memory(field: str, file: str = "status") -> int | None:
    """Return bytes summed over this process and its descendants, None where /proc lacks them.

    `VmHWM` of `status` is the peak of resident memory, in which pages that processes share
    count once for each; `Pss` of `smaps_rollup` divides them.
    """
    total = 0
    try:
        for pid in family():
            for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1]) * 1024
    except OSError:
        return None
    return total or None
