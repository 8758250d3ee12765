"""Decoding against PyTorch with a static cache, tokens per second.

    python benchmarks/generate.py [--workload C S] [--batch 1 16] [--kernels numpy]
                                  [--peers eager compiled] [--repeats N] [--rounds 15]

C is nanoGPT's network for a laptop, S the default network; both with large random parameters. All
decode the same prompts greedily to the end of the context, and must find the same tokens before
anything is timed. Every contestant is a process of its own; they take turns; a ratio is a median
over the rounds, with quartiles.
"""

import argparse
import statistics
from dataclasses import asdict
from typing import Any

from timing import cores, interleave, ratios, spread, start_all, table
from workloads import KERNELS, WORKLOADS, Workload

PEERS = ("eager", "compiled")
PROMPT = 8  # tokens
HEADS = ("contestant", "threads", "tokens/s", "peak MB")


def main() -> None:
    """Measure what the command line asks for."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="+", choices=("S", "C", "D"), default=["C", "S"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--repeats", type=int, default=5, help="decodings a turn")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    for name in options.workload:
        for batch in options.batch:
            compare(WORKLOADS[name], batch, options)


def compare(workload: Workload, batch: int, options: argparse.Namespace) -> None:
    """Run one network at one batch size and print its table."""
    print(f"\n## {workload.name}, batch {batch}\n", flush=True)
    base = {"workload": asdict(workload), "batch": batch, "prompt": PROMPT}
    threads = sorted({1, cores()})
    wanted: list[tuple[str, dict[str, Any]]] = [
        (f"llmlab {k} {n}", {**base, "kind": "decode_llmlab", "kernels": k, "threads": n})
        for k in options.kernels
        for n in threads
    ]
    for peer in options.peers:
        spec = {"kind": "decode_torch", "compiled": peer == "compiled"}
        wanted += [(f"torch {peer} {n}", {**base, **spec, "threads": n}) for n in threads]
    running, failures = start_all(wanted)
    try:
        first = next(iter(running.values())).info["tokens"]
        for name, contestant in running.items():
            if contestant.info["tokens"] != first:
                print(f"{name}: found other tokens than the first contestant")
        turns = interleave(
            running, options.rounds, lambda n: {"number": n, "repeats": options.repeats}
        )
        memories = {name: c.ask(do="finish")["peak"] for name, c in running.items()}
    finally:
        for contestant in running.values():
            contestant.close()
    times = {name: [turn["seconds"] for turn in answers] for name, answers in turns.items()}
    ours = [best(times, f"llmlab {kernels} ") for kernels in options.kernels]
    theirs = [name for peer in options.peers if (name := best(times, f"torch {peer} "))]
    rows = []
    for name, answers in turns.items():
        speed = statistics.median(turn["tokens"] / turn["seconds"] for turn in answers)
        chosen = " *" * (name in [*ours, *theirs])
        faster = ", ".join(spread(ratios(times[name], times[own])) for own in ours if own)
        rows.append(
            (
                name.rsplit(" ", 1)[0] + chosen,
                str(running[name].spec["threads"]),
                f"{speed:,.0f}",
                f"{memories[name]:.0f}",
                faster if name.startswith("torch") else "",
            )
        )
    print(table((*HEADS, f"time / time of {', '.join(str(own) for own in ours)}"), rows))
    print("\n* the better number of threads")
    rival = min(theirs, key=lambda name: statistics.median(times[name]), default=None)
    for own in ours:
        if own and rival:
            print(f"{own} against the best, {rival}: {spread(ratios(times[rival], times[own]))}")
    for name in failures:
        print(f"without {failures[name]}")


def best(times: dict[str, list[float]], prefix: str) -> str | None:
    """Return the fastest of the contestants whose names start alike."""
    names = [name for name in times if name.startswith(prefix)]
    return min(names, key=lambda name: statistics.median(times[name]), default=None)


if __name__ == "__main__":
    main()
