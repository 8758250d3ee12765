"""By what arms are compared, and whether they may be."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmlab.errors import ConfigError, suggest
from llmlab.study.arms import FINISHED, Arm, Job

VALIDATED = ("val_loss", "best_val_loss", "bits_per_byte")
_HIGHER = ("accuracy", "recall")  # of all that phases report, where more is better
_BY_TOKEN = ("loss", "val_loss", "best_val_loss", "perplexity")


@dataclass(frozen=True)
class Metric:
    """A number that jobs report, and which way is better."""

    name: str
    higher: bool = False

    @property
    def text(self) -> str:
        """What a table says it is ranked by."""
        last = " at the last validation" if self.name == "val_loss" else ""
        return f"{self.name}{last}, {'higher' if self.higher else 'lower'} is better"

    def gain(self, difference: float) -> float:
        """Return a difference with the sign that is positive where it is better."""
        return difference if self.higher else -difference


def choose(jobs: Iterable[Job], name: str | None = None, direction: str | None = None) -> Metric:
    """Return the metric: as named, else `val_loss` if every finished job has one, else `loss`.

    Where tokenizers differ, nats per token aren't alike, and it is `bits_per_byte`.
    """
    finished = [job for job in jobs if job.status == FINISHED]
    known = sorted({key for job in finished for key in job.values})
    if name is None:
        name = "loss"
        if finished and all(job.value("val_loss") is not None for job in finished):
            name = "val_loss"
        several = len(_kinds(finished, "tokenizer")) > 1
        if several and all(job.value("bits_per_byte") is not None for job in finished):
            name = "bits_per_byte"
    elif finished and name not in known:
        raise ConfigError(
            f"metric={name}: no job reports it{suggest(name, known)}; reported: {', '.join(known)}"
        )
    return Metric(name, name in _HIGHER if direction is None else direction == "higher")


def refusal(arms: Sequence[Arm], metric: Metric) -> str | None:
    """Return why arms can't be compared by a metric, or None if they can.

    A seed may decide which text is kept for validation, so arms are held together seed by seed.
    """
    name = metric.name
    if (
        name in _BY_TOKEN
        and len(_kinds((job for arm in arms for job in arm.jobs), "tokenizer")) > 1
    ):
        return (
            f"{name} is counted by token, and the tokenizers differ: not compared. "
            "metric=bits_per_byte compares them, where text is kept for validation"
        )
    fact, what, advice = "objective", "training losses aren't alike", _KEEP_SOME
    if _kinds((job for arm in arms for job in arm.jobs), "measured"):
        fact, what, advice = "measured", "texts differ", "name one text: on=FILE"
    elif name in VALIDATED:
        fact, what, advice = "validation", "validation texts differ", _SAME_TEXT
    elif name not in _BY_TOKEN:
        return None
    stages = {job.facts.get("stage"): arm.name for arm in arms for job in arm.jobs}
    stages.pop(None, None)
    if fact != "measured" and len(stages) > 1:
        (one, name_of_one), (other, name_of_other), *_ = sorted(stages.items())
        return (
            f"{name_of_one} ended in {one} and {name_of_other} in {other}: other texts, so {name} "
            "is not compared."
        )
    if fact == "objective" and (others := _other_objectives(arms, name)):
        return f"{' and '.join(others)}: their {what}, so {name} is not compared; {advice}"
    first: dict[int, tuple[str, object]] = {}
    for arm in arms:
        for job in arm.jobs:
            own = job.facts.get(fact)
            if job.value(name) is None or own is None:
                continue
            other, theirs = first.setdefault(job.seed, (arm.name, own))
            if own != theirs:
                return f"{arm.name} and {other}: their {what}, so {name} is not compared; {advice}"
    return None


def _other_objectives(arms: Sequence[Arm], name: str) -> tuple[str, str] | None:
    """Return two arms that trained on other texts, whatever their seeds.

    Only where both keep text for validation, a seed may have drawn what is left to train on.
    """
    found = [
        (arm.name, job)
        for arm in arms
        for job in arm.jobs
        if job.value(name) is not None and job.facts.get("objective") is not None
    ]
    if not found:
        return None
    theirs, first = found[0]
    for own, job in found[1:]:
        drawn = "validation" in job.facts and "validation" in first.facts
        if job.facts["objective"] != first.facts["objective"] and not drawn and own != theirs:
            return own, theirs
    return None


_SAME_TEXT = "give them the same data and val_fraction"
_KEEP_SOME = "keep text for validation: data.pretrain.val_fraction=0.1"


def _kinds(jobs: Iterable[Job], fact: str) -> set[object]:
    return {job.facts[fact] for job in jobs if job.facts.get(fact) is not None}
