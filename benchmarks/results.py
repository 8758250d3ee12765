"""What `train.py` prints of the turns that contestants took."""

import statistics
from collections.abc import Mapping
from typing import Any

from timing import Contestant, ratios, spread, table
from workloads import EPOCHS

HEADS = (
    "contestant",
    "threads",
    "ms a step",
    "tokens/s",
    "MFU %",
    "products' share",
    "peak MB",
)
Turns = dict[str, list[dict[str, Any]]]


def costs(turns: Turns, name: str) -> list[float]:
    """Return a contestant's seconds for a target token, by round."""
    return [turn["seconds"] / turn["tokens"] for turn in turns[name]]


def best(turns: Turns, prefix: str) -> str | None:
    """Return the fastest of the contestants whose names start alike."""
    names = [name for name in turns if name.startswith(prefix)]
    return min(names, key=lambda n: statistics.median(costs(turns, n)), default=None)


def report(
    running: Mapping[str, Contestant],
    turns: Turns,
    memories: Mapping[str, dict[str, Any]],
    ours: list[str],
) -> None:
    """Print the table of one workload, with `ours` the names to compare with."""
    peak = turns["peak"][0]["flops"] / min(turn["seconds"] for turn in turns["peak"])
    bests = {best(turns, "torch eager"), best(turns, "torch compiled")}
    rows = []
    for name, answers in turns.items():
        if name in ("peak", "floor"):
            continue
        times = costs(turns, name)
        share = faster = ""
        if name not in ours:
            faster = ", ".join(spread(ratios(times, costs(turns, own))) for own in ours)
        elif "floor" in turns:
            share = spread(ratios(costs(turns, "floor"), times))
        rows.append(
            (
                name + " *" * (name in bests),
                str(running[name].spec["threads"]),
                f"{1e3 * statistics.median(a['seconds'] / a['steps'] for a in answers):.2f}",
                f"{statistics.median(a['tokens'] / a['seconds'] for a in answers):,.0f}",
                f"{statistics.median(100 * a['flops'] / a['seconds'] for a in answers) / peak:.0f}",
                share,
                f"{memories[name]['peak'] or 0:.0f}",
                faster,
            )
        )
    print()
    print(table((*HEADS, f"time / time of {', '.join(ours)}"), rows))
    print(f"\nsgemm peak {peak / 1e9:.0f} GFLOP/s; * the better number of threads", end="")
    if "floor" in running:
        noted = running["floor"].info["share"]
        print(f"; the products noted are {100 * noted:.0f} % of the operations counted", end="")
        print(" (attention goes by blocks, which reach over the triangle)", end="")
    print()
    for name in ours:
        grown, summary = memories[name]["grown"], running[name].info["summary"]
        if grown:
            print(
                f"{name}: training took {grown:.1f} MB more than importing; phase=summary says "
                f"{summary:.1f} MB ({grown / summary:.2f} times; a forked worker also has an "
                f"interpreter of its own)"
            )


def extrapolate(
    running: Mapping[str, Contestant], turns: Turns, ours: list[str], complete: bool
) -> None:
    """Print what the whole of both stages takes, as a part of PyTorch eager's time."""
    eager = best(turns, "torch eager")
    tokens = running[ours[0]].info["epoch_tokens"] * EPOCHS
    for name in [*ours, *([eager] if eager else [])]:
        total = statistics.median(costs(turns, name)) * tokens
        if complete:
            total = sum(turn["seconds"] for turn in turns[name])
        print(f"{name}: {total:.1f} s for {EPOCHS} + {EPOCHS} epochs", end="")
        print("" if complete else f" (from {len(turns[name])} turns)")
    for name in ours if eager else []:
        part = ratios(costs(turns, name), costs(turns, eager or ""))
        print(f"{name} takes {spread(part, 3)} of what PyTorch eager takes a line at a time")
