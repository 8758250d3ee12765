"""Ranks of MPI against threads, what they send, and what that means for more of them.

    python benchmarks/scale.py [--workload C D 30M] [--ranks 1 2 4] [--rounds 5] [--steps N]
                               [--machines] [--rate 1000] [--delay 0]

A rank has one thread. C and D are the networks of `train.py`, 30M is a larger one. Every turn is a
start of its own, and all take turns. A time is the least of all steps of all rounds: whatever else
the machine does can only add to it, and ranks feel it more than one process does. An exchange is
the two messages of a step, a gradient's parts to whoever sums them and the parameters from whoever
has updated them, when all ranks begin together. The last table predicts clusters from the processor
time of a sample's gradient and what an exchange sends.

`--machines` puts two ranks into two network namespaces, joined at a rate (Mbit/s) and a delay (ms,
one way), and prints the exchange beside its prediction. It needs root; delays need netem.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import islice, repeat
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from timing import cores, table
from workloads import WORKLOADS, Task, Workload

from llmlab.optim import OPTIMIZERS
from llmlab.train.ranks import END, Ranks, world
from llmlab.train.trainer import Trainer

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import mpirun
from namespaces import Machines

NETWORKS = {
    "C": replace(WORKLOADS["C"], batch=12),
    "D": WORKLOADS["D"],
    "30M": Workload("30M", "gpt", 8, 6, 10, 640, 128, 65, steps=2),
}
LINKS = {"1 Gbit/s": (1e9, 5e-5), "10 Gbit/s": (1e10, 2e-5), "100 Gbit/s": (1e11, 3e-6)}
RANKS = (8, 32, 128, 1024)
EXCHANGES = 20
BITS = 32  # of a number


def main() -> None:
    """Measure what the command line asks for; in a rank, be measured."""
    options = arguments()
    if options.measure:
        measure(Workload(**json.loads(options.measure)), options.threads)
        return
    if reason := mpirun.why_not():
        sys.exit(reason)
    chosen = [NETWORKS[name] for name in options.workload]
    if options.steps:
        chosen = [replace(each, steps=options.steps) for each in chosen]
    if options.machines:
        check_links(chosen, options)
        return
    found = {each.name: rounds_of(each, options) for each in chosen}
    report(found, options.ranks)
    predict({each.name: (each, found[each.name]) for each in chosen})


def arguments() -> argparse.Namespace:
    """Read the command line."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="steps of a turn (default: by workload)")
    parser.add_argument("--machines", action="store_true", help="two network namespaces")
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(workload: Workload, threads: int) -> None:
    """Train some steps as one of the ranks; rank 0 prints the seconds of each part."""
    ranks = world()
    task = Task(workload)
    rule = OPTIMIZERS.build("adamw", "optimizer")
    several = {"threads": threads, "ranks": ranks if ranks.size > 1 else None}
    with Trainer(task.stack, task.params(), rule, lr=1e-3, clip_norm=1.0, **several) as trainer:
        if ranks.rank:
            while (command := ranks.receive()).kind != END:
                trainer.obey(command)
        else:
            times = steps_of(trainer, task)
            ranks.end(0) if ranks.size > 1 else None
        seconds = exchange(ranks, trainer) if ranks.size > 1 else 0.0
    if ranks.rank == 0:
        print(json.dumps({**times, "exchange": seconds, "size": trainer.layout.size}))


def steps_of(trainer: Trainer, task: Task) -> dict[str, float]:
    """Return the least seconds of a step and of its gradients, and their processor time."""
    workers, gradients, processor, whole = trainer._workers, [], [], []
    assert workers is not None
    original = workers.gradients

    def timed(*given: Any) -> float:
        began, worked = perf_counter(), process_time()
        loss = original(*given)
        gradients.append(perf_counter() - began)
        processor.append(process_time() - worked)
        return loss

    workers.gradients = timed  # type: ignore[method-assign]
    batch = next(iter(task.batches(0)))
    steps = task.workload.steps or 1
    for one in islice(repeat(batch), 2 + steps):
        began = perf_counter()
        trainer.step([one])
        whole.append(perf_counter() - began)
    found = {"step": whole[2:], "gradients": gradients[2:], "processor": processor[2:]}
    return {name: min(times) for name, times in found.items()}


def exchange(ranks: Ranks, trainer: Trainer) -> float:
    """Return the least seconds in which all ranks exchange gradients and parameters."""
    workers: Any = trainer._workers
    times = []
    for _ in range(EXCHANGES):
        ranks.comm.Barrier()
        began = perf_counter()
        workers._exchange()
        workers._division.share(trainer.params.trained.flat)
        ranks.comm.Barrier()
        times.append(perf_counter() - began)
    return min(times)


def turn(workload: Workload, ranks: int, threads: int, machines: Any = None) -> dict[str, float]:
    """Start a turn and return what it measured."""
    words = ["--measure", json.dumps(asdict(workload)), "--threads", str(threads)]
    here = Path(__file__).resolve()
    program = (str(here),)
    process = mpirun.start(ranks, *words, folder=here.parent, program=program, machines=machines)
    try:
        out, err = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    if process.returncode:
        sys.exit(f"{ranks} ranks: {err.strip()[-500:]}")
    return json.loads(out.strip().splitlines()[-1])


def rounds_of(workload: Workload, options: argparse.Namespace) -> dict[str, list[dict]]:
    """Return the turns of all contestants."""
    wanted = {f"{n} rank{'s' * (n > 1)}": (n, 1) for n in options.ranks}
    wanted["2 threads"] = (0, 2)
    turns: dict[str, list[dict]] = {name: [] for name in wanted}
    for number in range(options.rounds):
        names = list(wanted)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            print(f"  {workload.name}, round {number + 1}: {name}", file=sys.stderr, flush=True)
            turns[name].append(turn(workload, *wanted[name]))
    return turns


def report(found: dict[str, dict[str, list[dict]]], ranks: list[int]) -> None:
    """Print the times of a step, and the efficiency of ranks and of threads."""
    rows = []
    for network, turns in found.items():
        alone = least(turns.get("1 rank", []), "step")
        for name, own in turns.items():
            used = min(int(name.split()[0]), cores())
            times = [least(own, key) for key in ("step", "gradients", "exchange")]
            cells = [f"{1e3 * seconds:.1f}" for seconds in times]
            rows.append((f"{network}, {name}", *cells, f"{alone / times[0] / used:.2f}"))
    heads = ("", "step, ms", "gradients, ms", "exchange, ms", "efficiency")
    print(f"\nOn {cores()} cores; the efficiency of more ranks than cores is by cores.\n")
    print(table(heads, rows))


def least(turns: list[dict], key: str) -> float:
    """Return the least of a figure over the rounds."""
    return min((turn[key] for turn in turns), default=float("nan"))


def seconds_of_exchange(size: int, ranks: int, rate: float, delay: float) -> float:
    """Return the predicted seconds of an exchange of `size` numbers.

    Each rank sends all but its own part twice, at `rate` bits per second, in 2 (ranks − 1)
    messages, each of which takes `delay` seconds.
    """
    return 2 * (ranks - 1) * (size * BITS / ranks / rate + delay)


def predict(found: dict[str, tuple[Workload, dict[str, list[dict]]]]) -> None:
    """Print for clusters how long an exchange takes, and the batch that makes it worth while."""
    rows = []
    for network, (workload, turns) in found.items():
        alone = turns.get("1 rank") or next(iter(turns.values()))
        sample = least(alone, "processor") / workload.batch
        size = int(alone[0]["size"])
        for link, (rate, delay) in LINKS.items():
            cells = []
            for ranks in RANKS:
                sent = seconds_of_exchange(size, ranks, rate, delay)
                rows_each = max(1, -(-sent // sample))
                cells.append(
                    f"{1e3 * sent:,.{0 if sent > 0.01 else 1}f} ms, {int(rows_each * ranks):,}"
                )
            rows.append((f"{network}, {link}", *cells))
    print("\nTime of an exchange, and the batch (samples of all ranks) from which half of the time")
    print("or more is gradients; a rank is one core as here:\n")
    print(table(("", *(f"{ranks:,} ranks" for ranks in RANKS)), rows))


def check_links(chosen: list[Workload], options: argparse.Namespace) -> None:
    """Print the measured exchange of two machines beside the predicted one."""
    rows = []
    with Machines(options.rate, options.delay) as machines:
        for workload in chosen:
            turns = [turn(workload, 2, 1, machines) for _ in range(options.rounds)]
            found = 1e3 * least(turns, "exchange")
            size, rate = int(turns[0]["size"]), options.rate * 1e6
            wanted = 1e3 * seconds_of_exchange(size, 2, rate, options.delay / 1e3)
            rows.append((workload.name, f"{found:.1f}", f"{wanted:.1f}"))
    print(f"\nTwo machines, {options.rate:g} Mbit/s, {options.delay:g} ms:\n")
    print(table(("", "measured, ms", "predicted, ms"), rows))


if __name__ == "__main__":
    main()
