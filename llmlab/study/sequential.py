"""`seeds=auto`: look after some seeds, go on only with what isn't decided.

α is shared out evenly among all looks and all comparisons that there can be (Bonferroni), so
that looking again and again, and choosing the best after seeing the data, keeps the chance of any
false claim at α. For the same reason the intervals hold at all looks together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from llmlab.study.metric import Metric
from llmlab.study.statistics import Difference, paired_difference

# More seeds change little where there are many already, and each look costs a share of α.
_LOOKS = (3, 4, 5, 6, 8, 10, 14, 20, 28, 40, 56, 80, 100)

Values = Mapping[int, float | None]  # by seed; None: ended without the metric


@dataclass(frozen=True)
class Rule:
    """When `seeds=auto` stops."""

    alpha: float = 0.05  # greatest chance of any false claim in the study
    # A difference that nobody cares about: two arms that surely differ by less are equal
    resolution: float = 0.01
    max_seeds: int = 20  # of each arm

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds after which the data are looked at."""
        return (*(n for n in _LOOKS if n < self.max_seeds), self.max_seeds)

    def level(self, comparisons: int) -> float:
        """Return the share of α that one comparison has at one look."""
        return self.alpha / (len(self.looks) * max(comparisons, 1))


@dataclass(frozen=True)
class Pair:
    """What is known of two arms: of `one` minus `other`, at the look that decided, or the last."""

    one: str
    other: str
    difference: Difference
    p: float  # adjusted for looks and comparisons
    better: str | None = None
    equal: bool = False


@dataclass
class Decision:
    """Where a study stands."""

    # The jobs to run next, as arm and seed; none when the study is over.
    wanted: list[tuple[str, int]] = field(default_factory=list)
    at_most: int = 0  # how many more there can be, these included
    # Of all looks, by the names of their arms
    pairs: dict[tuple[str, str], Pair] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)  # arms that may get more seeds
    seeds: int = 0  # of the last complete look


def comparisons(arms: Sequence[str], baseline: str | None) -> list[tuple[str, str]]:
    """Return the pairs that count: each with the baseline, else all: any may come out best."""
    if baseline is None:
        return list(combinations(arms, 2))
    return [(arm, baseline) for arm in arms if arm != baseline]


def decide(
    results: Mapping[str, Values],  # of each arm, in order
    seeds: Sequence[int],  # in the order in which they are taken, at least `rule.max_seeds`
    rule: Rule,
    metric: Metric,
    baseline: str | None = None,
) -> Decision:
    """Return where a study stands, from nothing but the results of its jobs.

    It goes through the looks one after the other, as they were made: the same results give the
    same decision, however often the study was stopped in between.
    """
    names = list(results)
    counted = comparisons(names, baseline)
    level = rule.level(len(counted))
    state = Decision(open=names)
    undecided = counted
    for count in rule.looks:
        taken = seeds[:count]
        missing = [(arm, seed) for seed in taken for arm in state.open if seed not in results[arm]]
        if missing:
            last = seeds[: rule.max_seeds]
            state.wanted = missing
            state.at_most = sum(seed not in results[arm] for arm in state.open for seed in last)
            return state
        state.seeds = count
        values = {
            arm: {seed: value for seed in taken if (value := results[arm][seed]) is not None}
            for arm in state.open
        }
        # Who diverges isn't declared better, and more seeds won't change that.
        whole = {arm for arm in state.open if len(values[arm]) == count}
        undecided = [pair for pair in undecided if whole.issuperset(pair)]
        for one, other in undecided:
            pair = _compared(one, other, values, rule, metric, level)
            state.pairs[one, other] = pair
        undecided = _remaining(undecided, state.pairs, baseline)
        if not undecided:
            break
        state.open = [arm for arm in names if any(arm in pair for pair in undecided)]
    state.open = []
    return state


def _compared(
    one: str,
    other: str,
    values: Mapping[str, Mapping[int, float]],
    rule: Rule,
    metric: Metric,
    level: float,
) -> Pair:
    found = paired_difference(values[one], values[other], 1 - level)
    p = min(1.0, found.p * rule.alpha / level)
    better = (one if metric.gain(found.mean) > 0 else other) if found.p < level else None
    equal = better is None and max(abs(found.low), abs(found.high)) <= rule.resolution
    return Pair(one, other, found, p, better, equal)


def _remaining(
    undecided: Sequence[tuple[str, str]],
    pairs: Mapping[tuple[str, str], Pair],
    baseline: str | None,
) -> list[tuple[str, str]]:
    """Return the pairs that more seeds are for: without those that have lost to any other."""
    lost = set()
    if baseline is None:
        lost = {
            pair.one if pair.better == pair.other else pair.other
            for pair in pairs.values()
            if pair.better is not None
        }
    return [
        names
        for names in undecided
        if pairs[names].better is None and not pairs[names].equal and lost.isdisjoint(names)
    ]
