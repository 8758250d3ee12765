"""How often a study claims what isn't there, and what a difference that is there costs.

    python benchmarks/studies.py                  # 10,000 studies of each kind, some minutes
    python benchmarks/studies.py --studies 1000
    python benchmarks/studies.py --results runs/sweeps/ID/results.csv   # from real, equal jobs
    python benchmarks/studies.py --intervals      # how often kinds of intervals hold the mean

Jobs are simulated: normal numbers that share a part by seed (`correlation`). What decides is
`llmlab.study`, as a sweep uses it. Studies in which all arms are alike show errors; a difference is
given in standard deviations of the paired difference. With `--results` the jobs of a sweep that
differ in nothing but the seed are dealt out as two arms of 20, again and again.
"""

import argparse
import csv
from collections.abc import Iterator
from math import sqrt
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from llmlab.study.metric import Metric
from llmlab.study.sequential import Rule, comparisons, decide
from llmlab.study.statistics import estimate, holm, paired_difference, power

ALPHA, MOST = 0.05, 20
RULE = Rule(alpha=ALPHA, resolution=0.0, max_seeds=MOST)  # nothing is called equal
METRIC = Metric("val_loss")
FIXED = (3, 5, 10, 20)
Table = dict[str, dict[int, float]]


def tables(studies: int, arms: int, correlation: float, effect: float) -> Iterator[Table]:
    """Yield the results of all seeds of each study; the first arm is better by `effect`."""
    rng = np.random.default_rng([arms, round(10 * correlation), round(10 * effect)])
    own = sqrt(1 - correlation)
    for _ in range(studies):
        values = own * rng.standard_normal((arms, MOST))
        values += sqrt(correlation) * rng.standard_normal(MOST)
        values[0] -= effect * own * sqrt(2)  # the deviation of a difference of two arms
        yield {str(arm): dict(enumerate(row.tolist())) for arm, row in enumerate(values)}


def fixed_claims(table: Table, seeds: int) -> bool:
    """Return whether any pair is told apart by that many seeds."""
    cut = {arm: {s: v for s, v in row.items() if s < seeds} for arm, row in table.items()}
    pairs = [paired_difference(cut[a], cut[b]) for a, b in comparisons(list(cut), None)]
    return min(holm([pair.p for pair in pairs])) < ALPHA


def trial(task: tuple[int, int, float, float]) -> dict[str, float]:
    """Return the shares of studies with a claim, and the mean number of jobs of `auto`."""
    studies, arms, correlation, effect = task
    counts: dict[str, float] = dict.fromkeys([*map(str, FIXED), "auto", "jobs"], 0.0)
    for table in tables(studies, arms, correlation, effect):
        if not effect:
            for seeds in FIXED:
                counts[str(seeds)] += fixed_claims(table, seeds)
        # All results are there at once; it looks at no more of them than it would ask for.
        pairs = decide(table, range(MOST), RULE, METRIC).pairs.values()
        counts["auto"] += any(pair.better is not None for pair in pairs)
        for arm in table:
            seeds = (pair.difference.count for pair in pairs if arm in (pair.one, pair.other))
            counts["jobs"] += max(seeds)
    return {name: value / studies for name, value in counts.items()}


def dealt(studies: int, values: list[float]) -> Iterator[Table]:
    """Yield two arms of equal jobs, dealt out at random."""
    rng = np.random.default_rng(0)
    for _ in range(studies):
        order = rng.permutation(values).tolist()
        yield {str(arm): dict(enumerate(order[arm * MOST : (arm + 1) * MOST])) for arm in range(2)}


def print_dealt(studies: int, path: Path) -> None:
    """Print how often equal jobs are told apart."""
    with path.open(newline="") as file:
        values = [float(row["val_loss"]) for row in csv.DictReader(file)]
    counts = dict.fromkeys([*map(str, FIXED), "auto"], 0)
    for table in dealt(studies, values[: 2 * MOST]):
        for seeds in FIXED:
            counts[str(seeds)] += fixed_claims(table, seeds)
        pairs = decide(table, range(MOST), RULE, METRIC).pairs.values()
        counts["auto"] += any(pair.better is not None for pair in pairs)
    for name, count in counts.items():
        print(f"{name:>5} {count / studies:.4f}")


def print_intervals(studies: int) -> None:
    """Print how often intervals of nominally 95 % hold the mean of normal data."""
    heads = ["Seeds", "t", "1.96 · standard error", "percentile bootstrap", "lowest to highest"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    rng = np.random.default_rng(0)
    for seeds in (3, 5, 10):
        held = np.zeros(4)
        for _ in range(studies):
            values = rng.standard_normal(seeds)
            t = estimate(values.tolist(), 1 - ALPHA)
            error = 1.96 * values.std(ddof=1) / sqrt(seeds)
            means = values[rng.integers(seeds, size=(1000, seeds))].mean(axis=1)
            ends = [(t.low, t.high), (values.mean() - error, values.mean() + error)]
            ends += [np.quantile(means, (ALPHA / 2, 1 - ALPHA / 2)), (values.min(), values.max())]
            held += [low <= 0 <= high for low, high in ends]
        print(f"| {seeds} | {' | '.join(f'{share:.1%}' for share in held / studies)} |")


def equal_power(reached: float, effect: float) -> int:
    """Return the fixed number of seeds whose power is at least that."""
    return next(n for n in range(2, 100) if power(n, effect, ALPHA) >= min(reached, 0.9999))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--intervals", action="store_true")
    options = parser.parse_args()
    studies = options.studies
    if options.results is not None:
        print_dealt(studies, options.results)
        return
    if options.intervals:
        print_intervals(studies)
        return
    alike = [(studies, arms, share, 0.0) for arms in (2, 3, 6) for share in (0.0, 0.9)]
    apart = [(studies, 2, share, size) for size in (1.0, 2.0) for share in (0.0, 0.9)]
    with Pool() as pool:
        found = pool.map(trial, [*alike, *apart], chunksize=1)
    print("No difference: studies with any claim\n")
    heads = ["arms", "correlation", *(f"{seeds} seeds" for seeds in FIXED), "auto, 3 to 20"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for (_, arms, share, _), row in zip(alike, found, strict=False):
        cells = [f"{row[name]:.4f}" for name in (*map(str, FIXED), "auto")]
        print(f"| {arms} | {share:g} | {' | '.join(cells)} |")
    print("\nA difference between two arms\n")
    heads = ["deviations", "correlation", "power of auto", "mean jobs", "fixed, equal power: jobs"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for (_, _, share, size), row in zip(apart, found[len(alike) :], strict=True):
        jobs = 2 * equal_power(row["auto"], size)
        print(f"| {size:g} | {share:g} | {row['auto']:.4f} | {row['jobs']:.1f} | {jobs} |")


if __name__ == "__main__":
    main()
