"""What a study says, in sentences: better by how much, or that it can't be told yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from llmlab.study.arms import DIVERGED, Arm
from llmlab.study.metric import Metric, refusal
from llmlab.study.sequential import Decision, Pair, comparisons
from llmlab.study.statistics import (
    POWER,
    Difference,
    holm,
    needed_seeds,
    paired_difference,
    visible_difference,
)

_SEEDS = 20  # what a study can be expected to afford
_FEW = 3  # fewer seeds say little about how much they differ


@dataclass(frozen=True)
class Verdict:
    """What is said of a study."""

    sentences: list[str]  # in order of weight; the first is the answer
    # The arm that is declared better than all others, or all that were compared with it
    best: str | None = None
    pairs: Sequence[Pair] = ()  # the comparisons behind the sentences
    more_seeds: bool = False  # whether another seed or more could say something


def ranked(arms: Sequence[Arm], metric: Metric) -> list[Arm]:
    """Return arms by their mean, the best first; those with a failed job after the others."""

    def key(arm: Arm) -> tuple[bool, bool, float, str]:
        mean = arm.mean(metric.name)
        failed = bool(arm.failed(metric.name))
        return mean is None, failed, 0.0 if mean is None else -metric.gain(mean), arm.name

    return sorted(arms, key=key)


def judge(
    arms: Sequence[Arm], metric: Metric, baseline: str | None = None, alpha: float = 0.05
) -> Verdict:
    """Return the verdict on arms whose number of seeds was fixed beforehand.

    All pairs are adjusted for by Holm's method, since any arm may come out best; with a
    `baseline`, its pairs alone.
    """
    notes = _notes(arms, metric)
    if reason := refusal(arms, metric):
        return Verdict([reason, *notes])
    whole = [arm for arm in arms if arm.values(metric.name) and not arm.failed(metric.name)]
    if baseline is not None and baseline not in [arm.name for arm in whole]:
        return Verdict([f"baseline {baseline}: no whole arm to compare with", *notes])
    if len(whole) < 2:
        return Verdict([*([] if len(arms) < 2 else ["Too few arms to compare."]), *notes])
    by_name = {arm.name: arm.values(metric.name) for arm in whole}
    names = comparisons(list(by_name), baseline)
    found = [paired_difference(by_name[one], by_name[other], 1 - alpha) for one, other in names]
    adjusted = holm([each.p for each in found])
    pairs = []
    for (one, other), each, p in zip(names, found, adjusted, strict=True):
        better = (one if metric.gain(each.mean) > 0 else other) if p < alpha else None
        pairs.append(Pair(one, other, each, p, better))
    if all(pair.difference.count < 2 for pair in pairs):
        return Verdict([_too_few(pairs), *notes], pairs=pairs, more_seeds=True)
    first = baseline or ranked(whole, metric)[0].name
    return _worded(pairs, first, metric, alpha / len(pairs), 1 - alpha, notes)


def judge_auto(
    arms: Sequence[Arm],
    metric: Metric,
    decision: Decision,
    alpha: float,
    level: float,
    baseline: str | None = None,
) -> Verdict:
    """Return the verdict on a study with `seeds=auto`; `level` is that of one comparison's look."""
    notes = _notes(arms, metric)
    if reason := refusal(arms, metric):
        return Verdict([reason, *notes])
    pairs = list(decision.pairs.values())
    if not pairs:
        return Verdict(["Too few arms without a failed job to compare.", *notes])
    first = baseline or _leader(pairs, metric)
    return _worded(pairs, first, metric, level, 1 - level, notes)


def _leader(pairs: Sequence[Pair], metric: Metric) -> str:
    """Return the arm that has lost to none and has the best mean among those, pair by pair."""
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.one, pair.other)))
    lost = {pair.other if pair.better == pair.one else pair.one for pair in pairs if pair.better}
    left = [name for name in names if name not in lost] or names
    worse = {
        pair.one if metric.gain(pair.difference.mean) <= 0 else pair.other
        for pair in pairs
        if pair.one in left and pair.other in left
    }
    return next((name for name in left if name not in worse), left[0])


def _worded(
    pairs: Sequence[Pair],
    first: str,
    metric: Metric,
    level: float,
    confidence: float,
    notes: Sequence[str],
) -> Verdict:
    """Return a sentence for each pair of the arm `first`."""
    own = [_turned(pair, first) for pair in pairs if first in (pair.one, pair.other)]
    own.sort(key=lambda pair: (pair.better is None, pair.p, pair.other))
    sentences = [_sentence(pair, metric, level, confidence) for pair in own]
    best = first if all(pair.better == first for pair in own) else None
    if best is not None and len(own) > 1:
        sentences.insert(0, f"{first} is better than every other arm.")
    undecided = any(pair.better is None and not pair.equal for pair in own)
    few = any(pair.better is not None and pair.difference.count < _FEW for pair in own)
    if few:
        sentences.append(
            f"Fewer than {_FEW} seeds can lie close together by chance: this is no more than a "
            "hint; add seeds."
        )
    return Verdict([*sentences, *notes], best, pairs, undecided or few)


def _sentence(pair: Pair, metric: Metric, level: float, confidence: float) -> str:
    found = pair.difference
    size, seeds = abs(found.mean), f"{found.count} seed{'s' * (found.count != 1)}"
    ends = sorted((abs(found.low), abs(found.high)))
    p = f"p = {pair.p:.2g}" if pair.p >= 1e-6 else "p < 1e-6"
    if pair.better is not None:
        winner, loser = pair.one, pair.other
        if pair.better != winner:
            winner, loser = loser, winner
        way = "higher" if metric.higher else "lower"
        between = f"{100 * confidence:.4g} % interval {ends[0]:.4g} to {ends[1]:.4g}"
        return (
            f"{winner} is better than {loser}: {metric.name} {way} by {size:.4g} "
            f"({between}, {p}, {seeds}, paired)."
        )
    if pair.equal:
        return f"{pair.one} and {pair.other} differ by less than {ends[1]:.4g} ({seeds})."
    told = f"{pair.one} and {pair.other} cannot be told apart with {seeds}"
    if found.count < 2 or not isfinite(found.deviation):
        return f"{told}: no interval from fewer than 2 seeds in common."
    return f"{told} (difference {size:.4g}, {p}); {_hint(found, level)}."


def _hint(found: Difference, level: float) -> str:
    """Return how many seeds would detect the difference seen, or what many would detect."""
    size = abs(found.mean)
    count = needed_seeds(size, found.deviation, level) if size else None
    if count is not None and count > found.count:
        return f"about {count} seeds would be needed to detect a difference of {size:.2g}"
    many = max(_SEEDS, 2 * found.count)
    visible = visible_difference(many, found.deviation, level)
    return (
        f"{many} seeds would detect a difference of {visible:.2g} (in {POWER:.0%} of all studies)"
    )


def _turned(pair: Pair, first: str) -> Pair:
    """Return the pair with `first` in front."""
    if pair.one == first:
        return pair
    d = pair.difference
    turned = Difference(d.count, -d.mean, d.deviation, -d.high, -d.low, d.p)
    return Pair(pair.other, pair.one, turned, pair.p, pair.better, pair.equal)


def _too_few(pairs: Sequence[Pair]) -> str:
    shared = max(pair.difference.count for pair in pairs)
    if shared:
        return "With only one shared seed, no claim can be made."
    return "The arms share no seed, so no claim can be made."


def _notes(arms: Sequence[Arm], metric: Metric) -> list[str]:
    """Return what else is to be said: of the metric, and of each arm with a job that lacks it."""
    sentences = []
    jobs = [job for arm in arms for job in arm.jobs if job.value(metric.name) is not None]
    if jobs and metric.name == "loss" and not any("measured" in job.facts for job in jobs):
        sentences.append(
            "This loss is on the text that was trained on. data.pretrain.val_fraction=0.1 keeps "
            "some of it for validation (data.tune for tuning)."
        )
    for arm in arms:
        failed = arm.failed(metric.name)
        if failed:
            word = "diverged" if all(job.status == DIVERGED for job in failed) else "failed"
            count = f"{len(failed)} of {len(arm.jobs)}"
            sentences.append(f"{arm.name}: {count} {word}, so it isn't declared better.")
    return sentences
