"""What few seeds tell: t intervals, paired differences, Holm's adjustment, seeds that are needed.

SciPy's special functions are imported by who calls, since most commands need none of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan, sqrt

POWER = 0.8  # chance to see a difference that is there, where seeds are counted for it
MANY_SEEDS = 100  # more are not asked for


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    # Number of values, their mean and standard deviation (of a sample)
    count: int
    mean: float
    deviation: float
    # The t interval of the mean; infinite for a single value.
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """The mean of paired differences; `p` is that of a two-sided t-test for 0."""

    p: float


def estimate(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Return mean, deviation and t interval of independent values (Student 1908)."""
    mean, deviation = _moments(values)
    reach = _reach(len(values), deviation, level)
    return Estimate(len(values), mean, deviation, mean - reach, mean + reach)


def paired_difference(
    one: Mapping[int, float], other: Mapping[int, float], level: float = 0.95
) -> Difference:
    """Return `one` minus `other` over the seeds that both have.

    With fewer than two such seeds nothing is known: the interval is infinite, p is 1.
    """
    differences = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    found = estimate(differences, level)
    count, mean, deviation = found.count, found.mean, found.deviation
    if count < 2 or mean == 0:
        p = 1.0
    elif deviation == 0:
        p = 0.0
    else:
        p = 2 * _t_cdf(count - 1, -abs(mean) / (deviation / sqrt(count)))
    return Difference(count, mean, deviation, found.low, found.high, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for their number (Holm 1979, "A simple sequentially…")."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def power(seeds: int, effect: float, alpha: float) -> float:
    """Return the chance that a paired t-test at `alpha` sees a difference.

    `effect` is the true mean difference in standard deviations of the paired difference.
    """
    from scipy.special import nctdtr, stdtrit

    if seeds < 2:
        return 0.0
    critical = float(stdtrit(seeds - 1, 1 - alpha / 2))
    shift = abs(effect) * sqrt(seeds)
    return float(1 - nctdtr(seeds - 1, shift, critical) + nctdtr(seeds - 1, shift, -critical))


def needed_seeds(difference: float, deviation: float, alpha: float) -> int | None:
    """Return how many seeds see `difference` with a chance of `POWER`; None: over `MANY_SEEDS`."""
    if deviation == 0:
        return 2
    effect = difference / deviation
    counts = range(2, MANY_SEEDS + 1)
    return next((n for n in counts if power(n, effect, alpha) >= POWER), None)


def visible_difference(seeds: int, deviation: float, alpha: float) -> float:
    """Return the difference that `seeds` seeds see with a chance of `POWER`."""
    low, high = 0.0, 1.0
    while power(seeds, high, alpha) < POWER:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power(seeds, middle, alpha) < POWER else (low, middle)
    return high * deviation


def _moments(values: Sequence[float]) -> tuple[float, float]:
    count = len(values)
    if not count:
        return nan, nan
    mean = sum(values) / count
    if count < 2:
        return mean, nan
    return mean, sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))


def _reach(count: int, deviation: float, level: float) -> float:
    """Return half the width of a t interval."""
    from scipy.special import stdtrit

    if count < 2:
        return inf
    return float(stdtrit(count - 1, (1 + level) / 2)) * deviation / sqrt(count)


def _t_cdf(freedom: int, t: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, t))
