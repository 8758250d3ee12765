"""Training against PyTorch, and against the matrix products alone.

    python benchmarks/train.py [--workload S default C D] [--kernels numpy] [--threads 2]
                               [--steps N] [--rounds 15] [--peers eager compiled]
                               [--scale batch|context|width|cores] [--whole]

S is the default network on the shipped texts one line at a time, C nanoGPT's run for a laptop,
D a larger one. `default` is what `python -m llmlab` trains (batches of 8), against PyTorch a line
at a time. Every contestant is a process of its own; they take turns of some steps; a ratio is a
median over the rounds, with quartiles. PyTorch counts with the number of threads that suits it
best. Before anything is timed, gradients are compared with PyTorch's in float64.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from subprocess import run
from time import perf_counter
from typing import Any

from results import Turns, extrapolate, report
from timing import Contestant, FailedError, cores, interleave, limit, start_all
from workloads import EPOCHS, KERNELS, SCALES, STAGES, WORKLOADS, Workload

from llmlab.build import resolve_threads

PEERS = ("eager", "compiled")


def main() -> None:
    """Measure what the command line asks for."""
    options = arguments()
    chosen = [WORKLOADS[name] for name in options.workload]
    counts = [options.cores or cores()]
    if options.scale == "cores":
        chosen, counts = [WORKLOADS["C"]], list(range(1, counts[0] + 1))
    elif options.scale:
        chosen = SCALES[options.scale]
    for workload in chosen:
        if options.steps:
            workload = replace(workload, steps=options.steps)
        for count in counts:
            compare(workload, count, options)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=["S", "C", "D"])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--threads", type=int, help="llmlab's (default: what phases choose)")
    parser.add_argument("--cores", type=int, help="processor cores for everybody (default: all)")
    parser.add_argument("--steps", type=int, help="steps of a turn (default: by workload)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--scale", choices=[*SCALES, "cores"], help="vary one size of C")
    parser.add_argument("--whole", action="store_true", help="'default': all epochs of both stages")
    return parser.parse_args()


def compare(workload: Workload, count: int, options: argparse.Namespace) -> None:
    """Run one workload on `count` cores and print its table."""
    print(f"\n## {workload.name}, {count} core{'s' * (count > 1)}\n", flush=True)
    default = workload.name == "default"
    limit(count)
    threads = options.threads or resolve_threads("auto", workload.batch, workload.context or 80)
    ours = {f"llmlab {kernels}": kernels for kernels in options.kernels}
    if options.peers:
        for kernels in ours.values():
            check(workload, kernels, threads)
    base = {"workload": asdict(workload)}
    wanted: list[tuple[str, dict[str, Any]]] = [("peak", {"kind": "peak", "size": 2048})]
    wanted += [
        (name, {**base, "kind": "llmlab", "kernels": kernels, "threads": threads})
        for name, kernels in ours.items()
    ]
    if not default:
        wanted.append(("floor", {**base, "kind": "floor", "threads": threads}))
    single = asdict(replace(workload, batch=1)) if default else base["workload"]
    for peer in options.peers:
        for own in sorted({1, count}):
            spec = {"kind": "torch", "compiled": peer == "compiled", "threads": own}
            wanted.append((f"torch {peer} {own}", {**base, "workload": single, **spec}))
    running, failures = start_all(wanted)
    try:
        if default and options.whole:
            turns = whole(running)
        else:
            turns = interleave(running, options.rounds, lambda number: {"number": number})
        memories = {n: c.ask(do="finish") for n, c in running.items() if n != "peak"}
        report(running, turns, memories, list(ours))
        for name in failures:
            print(f"\nwithout {failures[name]}")
        if default:
            extrapolate(running, turns, list(ours), options.whole)
    finally:
        for contestant in running.values():
            contestant.close()
    if default and options.whole:
        command(options)


def check(workload: Workload, kernels: str, threads: int) -> None:
    """Print how far gradients are from float64's."""
    spec = {"kind": "check", "workload": asdict(workload), "kernels": kernels}
    try:
        contestant = Contestant("gradients", {**spec, "threads": threads})
    except FailedError as error:
        sys.exit(f"no comparison of gradients, so no race: {error}")
    found = contestant.info
    contestant.close()
    print(
        f"Greatest error of a gradient, float32 against PyTorch in float64: llmlab {kernels} "
        f"{found['ours']:.1e}, PyTorch {found['torch']:.1e}"
    )
    if found["ours"] > 1e-5:
        sys.exit("llmlab's gradients are wrong: no race")


def whole(running: Mapping[str, Contestant]) -> Turns:
    """Train both stages to their ends, an epoch a turn."""
    turns: Turns = {name: [] for name in running}
    for stage in STAGES:
        # Who was far behind in the first stage has not finished it.
        running = {n: c for n, c in running.items() if len(turns[n]) in (0, EPOCHS)}
        part = interleave(running, EPOCHS, lambda n, stage=stage: {"number": n, "stage": stage})
        for name, answers in part.items():
            turns[name] += answers
        for name, contestant in running.items():
            if name != "peak" and len(part[name]) == EPOCHS:
                loss = contestant.ask(do="loss", stage=stage)["loss"]
                print(f"loss after {stage}, {name}: {loss:.4f}")
    return {name: answers for name, answers in turns.items() if len(answers) > EPOCHS}


def command(options: argparse.Namespace) -> None:
    """Time the command itself, from its start to its end."""
    for kernels in options.kernels:
        with tempfile.TemporaryDirectory() as folder:
            start = perf_counter()
            words = ["-m", "llmlab", "chat=false", f"kernels={kernels}"]
            done = run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
            took = perf_counter() - start
        state = "" if done.returncode == 0 else f" (failed: {done.stderr.strip()[-200:]})"
        print(f"python {' '.join(words)}: {took:.1f} s from start to end{state}")


if __name__ == "__main__":
    main()
