"""One trial of a search: its values, what it reports on the way, and how it ended."""

import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from math import isfinite
from typing import Any

from llmlab.errors import ConfigError, Infeasible
from llmlab.runs.lock import RunLock
from llmlab.study.metric import Metric

_DECISION = "pruning"  # the trial's attribute that holds what was decided last
_RUNGS = re.compile(r"completed_rung_(\d+)")  # Optuna's own, of successive halving


@dataclass(frozen=True)
class Limit:
    """A constraint that is known before training: `parameters<=1e6`."""

    name: str
    most: float

    def excess(self, facts: Mapping[str, Any]) -> float:
        """Return by which share the limit is passed; 0 or less is fine."""
        return facts[self.name] / self.most - 1


def folder_of(number: int) -> str:
    """Return the name of a trial's folder."""
    return f"trial-{number:04d}"


class Trial:
    """A trial that this process works on; leaving the `with` lets another one take it."""

    def __init__(
        self,
        study: Any,
        trial: Any,
        values: Mapping[str, str],
        pruner: Any,
        limits: tuple[Limit, ...],
        claim: RunLock,
    ):
        self.number: int = trial.number
        self.values, self.limits = dict(values), limits
        self.facts: dict[str, int] = {}  # what the limits are about, once it is known
        self.prunes = pruner is not None
        self._study, self._trial, self._pruner, self._claim = study, trial, pruner, claim

    @property
    def folder(self) -> str:
        """The name of its folder, which is that of its run."""
        return folder_of(self.number)

    def check(self, facts: Mapping[str, int]) -> None:
        """Raise `Infeasible` if the network passes a limit; keep the facts."""
        self.facts = {limit.name: facts[limit.name] for limit in self.limits}
        beyond = [limit for limit in self.limits if limit.excess(self.facts) > 0]
        if beyond:
            said = ", ".join(f"{n.name} {self.facts[n.name]:,} > {n.most:,.0f}" for n in beyond)
            raise Infeasible(f"{self.folder}: beyond its limits, not trained: {said}")

    def report(self, index: int, value: float | None, last: bool) -> bool:
        """Store the loss of validation `index`, from 1, and return whether to give the trial up.

        What was decided once is stored and stays, so that a run which goes on from an earlier
        checkpoint ends where it had ended. At the `last` validation there is nothing to spare.
        """
        if len(self._study.directions) > 1:
            return False  # Optuna takes no reports on several objectives
        decision = {"index": 0, "prune": False, "rungs": 0}
        decision |= self._trial.user_attrs.get(_DECISION, {})
        if index <= decision["index"]:
            return bool(decision["prune"]) and index == decision["index"]
        frozen = self._study._storage.get_trial(self._trial._trial_id)
        if value is not None and isfinite(value) and index not in frozen.intermediate_values:
            self._trial.report(value, index)
        if self._pruner is None:
            return False
        prune, rungs = False, decision["rungs"]
        if not last and value is not None:
            frozen = copy(self._study._storage.get_trial(self._trial._trial_id))
            # A decision that was cut short may have left rungs behind.
            attributes = frozen.system_attrs.items()
            frozen.system_attrs = {k: v for k, v in attributes if _rung(k) < rungs}
            prune = bool(self._pruner.prune(self._study, frozen))
            stored = self._study._storage.get_trial(self._trial._trial_id).system_attrs
            rungs = max((_rung(key) + 1 for key in stored), default=0)
        self._trial.set_user_attr(_DECISION, {"index": index, "prune": prune, "rungs": rungs})
        return prune

    def catch_up(self, losses: Sequence[float | None]) -> None:
        """Report the validations of a run that was killed between its end and their report."""
        for index, loss in enumerate(losses, 1):
            self.report(index, loss, last=True)

    def tell(self, result: Mapping[str, Any], objectives: tuple[Metric, ...]) -> None:
        """Tell the search how the trial ended; `result` is what its job has left."""
        from optuna.trial import TrialState

        known = self._trial.constraints
        for limit in self.limits:
            if limit.name in result and limit.name not in known:
                self._trial.set_constraint(limit.name, limit.excess(result))
        if result["status"] == "finished":
            self._study.tell(self._trial, _values(result, objectives))
        elif result["status"] == "failed":
            self._study.tell(self._trial, state=TrialState.FAIL)
        else:  # samplers learn from it that this was no good
            self._study.tell(self._trial, state=TrialState.PRUNED)

    def __enter__(self) -> "Trial":
        return self

    def __exit__(self, *_: object) -> None:
        self._claim.release()


def _values(result: Mapping[str, Any], objectives: tuple[Metric, ...]) -> list[float]:
    found = [result.get(metric.name) for metric in objectives]
    lacking = [m.name for m, value in zip(objectives, found, strict=True) if value is None]
    if lacking:
        known = sorted(k for k, v in result.items() if isinstance(v, int | float))
        advice = "; data.pretrain.val_fraction=0.1 keeps text for validation"
        raise ConfigError(
            f"search: a trial reports no {', '.join(lacking)}, only: {', '.join(known)}"
            f"{advice if 'val_loss' not in result else ''}"
        )
    return [float(value) for value in found if value is not None]


def _rung(key: str) -> int:
    """Return the number of the rung that an attribute stands for; -1 for any other."""
    found = _RUNGS.fullmatch(key)
    return int(found[1]) if found else -1
