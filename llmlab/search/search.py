"""A search in its folder: which trial a worker takes next.

Any number of processes work on one search, on any machine that sees its folder. A trial belongs
to whoever holds its lock; the system lets go of it when that process dies, and the next worker
goes on with the trial's run where its last checkpoint is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.atomic_write import make_folder, replace_text
from llmlab.errors import ConfigError, ResourceError
from llmlab.runs.lock import RunLock
from llmlab.runs.overrides import differences
from llmlab.runs.record import new_id
from llmlab.runs.stored import read_stored
from llmlab.search.samplers import PRUNERS, SEARCH_SAMPLERS
from llmlab.search.space import Dimension
from llmlab.search.storage import import_optuna, locked, open_storage
from llmlab.search.trial import Limit, Trial
from llmlab.streams import stream
from llmlab.study.metric import Metric

SEARCH_RECORD = "search.json"
_LOCKS = ".locks"
_RULES = {"study": lambda v: isinstance(v, str), "base": lambda v: isinstance(v, dict)}


@dataclass(frozen=True)
class Settings:
    """What is searched, by what, and how."""

    # The values of each key, and how they were written
    space: Mapping[str, Dimension]
    texts: Mapping[str, str]
    base: Mapping[str, str]  # what all trials share: the identity of their overrides
    trials: int  # how many there are to be
    objectives: tuple[Metric, ...]  # the numbers to make small, or large
    sampler: Any
    pruner: Any = None
    limits: tuple[Limit, ...] = ()
    storage: str | None = None  # the URL of a database; None: a journal in the folder
    seed: int = 0


class Search:
    """A search in its folder; opening it makes it, if there is none."""

    def __init__(self, folder: Path, settings: Settings):
        optuna = import_optuna()
        self.folder, self.settings = folder, settings
        SEARCH_SAMPLERS.build(settings.sampler, "search.sampler", seed=0)
        if settings.pruner is not None:
            PRUNERS.build(settings.pruner, "search.pruner")
        make_folder(folder)
        with self._turn():
            storage = open_storage(folder, settings.storage)
            self.study = optuna.create_study(
                study_name=self._name(),
                storage=storage,
                directions=["maximize" if m.higher else "minimize" for m in settings.objectives],
                load_if_exists=True,
            )
            names = [metric.name for metric in settings.objectives]
            if self.study.metric_names != names:
                self.study._storage.set_study_system_attr(
                    self.study._study_id, "study:metric_names", names
                )

    def next(self) -> Trial | None:
        """Return the trial to work on next, or None if all are done or others work on them.

        One that was begun and that nobody works on goes first.
        """
        from optuna import Trial as OptunaTrial
        from optuna.trial import TrialState

        with self._turn():
            trials = self.study.get_trials(deepcopy=False)
            for each in trials:
                if each.state == TrialState.RUNNING and (claim := self._claim(each.number)):
                    self._prepare(each.number)
                    return self._taken(OptunaTrial(self.study, each._trial_id), claim)
            if len(trials) >= self.settings.trials:
                return None
            number = len(trials)
            claim = self._claim(number)
            if claim is None:
                raise ResourceError(f"{self.folder}: trial {number} is taken, and isn't there yet")
            self._prepare(number)
            return self._taken(self.study.ask(), claim)

    def _prepare(self, number: int) -> None:
        """Set sampler and pruner up for a trial, from nothing but its number and the storage."""
        own, space = self.settings, self.settings.sampler
        seed = int(stream(own.seed, "search", number).integers(2**31))
        self.study.sampler = SEARCH_SAMPLERS.build(space, "search.sampler", seed=seed)
        if own.pruner is not None:
            from optuna.trial import create_trial

            self.study.pruner = PRUNERS.build(own.pruner, "search.pruner")
            # Hyperband's brackets aren't known before its pruner was asked once.
            self.study.pruner.prune(self.study, create_trial(value=0.0))

    def _taken(self, trial: Any, claim: RunLock) -> Trial:
        own = self.settings
        with claim.held():
            values = {key: own.space[key].suggest(trial, key) for key in sorted(own.space)}
            pruner = None if own.pruner is None else self.study.pruner
            return Trial(self.study, trial, values, pruner, own.limits, claim)

    def _claim(self, number: int) -> RunLock | None:
        """Return the lock of a trial, or None if somebody works on it."""
        try:
            return RunLock(make_folder(self.folder / _LOCKS) / f"{number:04d}")
        except ResourceError as error:
            if isinstance(error.__cause__, BlockingIOError):
                return None
            raise

    def _turn(self) -> Any:
        """One process at a time decides what comes next."""
        return locked(self.folder / _LOCKS / "turn")

    def _name(self) -> str:
        """Return the study's name in the storage, and refuse another question than before."""
        path, own = self.folder / SEARCH_RECORD, self.settings
        asked = {
            "space": dict(own.texts),
            "base": dict(own.base),
            "objectives": [f"{'+' if m.higher else '-'}{m.name}" for m in own.objectives],
            "storage": own.storage,
        }
        if not path.exists():
            # In a database of many, names must differ; a journal's own is always the same.
            name = "llmlab" if own.storage is None else f"{self.folder.name}-{new_id()}"
            replace_text(path, json.dumps({"study": name, **asked}, indent=1) + "\n")
            return name
        found = read_record(self.folder)
        then = {k: json.dumps(v) for k, v in _flat({k: found.get(k) for k in asked}).items()}
        changed = differences(then, {k: json.dumps(v) for k, v in _flat(asked).items()})
        if changed:
            raise ConfigError(
                f"{self.folder}: this search had another question ({'; '.join(changed)}), and its "
                "trials couldn't be compared; start a new one"
            )
        return found["study"]


def read_record(folder: Path) -> dict[str, Any]:
    """Return what search.json says; raise CheckpointError if it is damaged."""
    return read_stored(folder / SEARCH_RECORD, _RULES, ("study", "base"))


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= {str(k): v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return found
