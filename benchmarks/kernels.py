"""Each kernel by itself: numpy, numba and, where there is a counterpart, PyTorch.

    python benchmarks/kernels.py [--workload S C D] [--only NAME ...] [--rounds 15]

One thread, the shapes of a workload's step (S: one line of 18 tokens). All variants of a kernel
take turns of a few milliseconds; the table shows the median microseconds of a call, and ratios as
medians over the rounds with quartiles.
"""

import argparse
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from cases import CASES, SHAPES, Arrays, torch_cases
from threadpoolctl import threadpool_limits
from timing import ratios, spread, table
from workloads import KERNELS

from llmlab import kernels as kernel_sets
from llmlab.workspace import Context

TURN = 3e-3  # seconds


class Variant(NamedTuple):
    """One way to compute a kernel, and how many calls make a turn."""

    name: str
    call: Callable[[], Any]
    repeats: int


def main() -> None:
    """Measure what the command line asks for."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch = import_torch()
    others = [*KERNELS[1:], *(["torch"] if torch else [])]
    heads = ("kernel", *(f"{name} µs" for name in [KERNELS[0], *others]))
    heads += tuple(f"{KERNELS[0]} / {name}" for name in others)
    with threadpool_limits(1, user_api="blas"):
        for workload in options.workload:
            arrays = Arrays(SHAPES[workload])
            theirs = torch_cases(torch, arrays) if torch else {}
            print(f"\n## {workload}: {arrays.shape}\n")
            rows = [row(name, arrays, theirs, others, options.rounds) for name in options.only]
            print(table(heads, rows), flush=True)


def import_torch() -> Any:
    """Return the module with one thread, or None where it isn't installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    return torch


def row(
    name: str,
    arrays: Arrays,
    theirs: dict[str, Callable[[], Any]],
    others: list[str],
    rounds: int,
) -> tuple[str, ...]:
    """Measure one kernel and return its line of the table."""
    calls = {kernels: bound(name, arrays, kernels) for kernels in KERNELS}
    if name in theirs:
        calls["torch"] = theirs[name]
    variants = [variant(kind, call) for kind, call in calls.items()]
    times: dict[str, list[float]] = {v.name: [] for v in variants}
    with np.errstate(all="ignore"):
        for number in range(rounds):
            shift = number % len(variants)
            for v in variants[shift:] + variants[:shift]:
                times[v.name].append(seconds(v.call, v.repeats))
    first = KERNELS[0]
    medians = [1e6 * statistics.median(times[k]) if k in times else None for k in [first, *others]]
    return (
        name,
        *("" if m is None else f"{m:.1f}" for m in medians),
        *(spread(ratios(times[first], times[o])) if o in times else "" for o in others),
    )


def bound(name: str, arrays: Arrays, kernels: str) -> Callable[[], Any]:
    """Return a call of the kernel as a step makes it: in a workspace that starts over."""
    ctx = Context(kernel_sets.load(kernels))
    arrays.begin(ctx)
    function = CASES[name](arrays, ctx)
    reset, fresh = ctx.workspace.reset, arrays.gradients

    def call() -> None:
        reset()
        ctx.fresh = set(fresh)
        function()

    return call


def variant(name: str, call: Callable[[], Any]) -> Variant:
    """Warm up and choose the number of calls of a turn."""
    with np.errstate(all="ignore"):
        for _ in range(3):
            call()
        once = min(seconds(call, 2) for _ in range(3))
    return Variant(name, call, max(2, int(TURN / once)))


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the time of one of several calls."""
    start = perf_counter()
    for _ in range(repeats):
        call()
    return (perf_counter() - start) / repeats


if __name__ == "__main__":
    main()
