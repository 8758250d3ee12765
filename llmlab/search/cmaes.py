"""CMA-ES whose state follows from the trials.

Optuna's own keeps its state in the storage as a pickle, and what is read from a file must run no
code. Here all finished generations are told again, which takes milliseconds.
"""

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Any

import numpy as np

from llmlab.errors import MissingPackage


def to_unit(distribution: Any, value: float) -> float:
    """Return where a value lies between the ends of its range, as a number from 0 to 1."""
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        low, high, value = log(low), log(high), log(value)
    return (value - low) / (high - low)


def from_unit(distribution: Any, place: float) -> float:
    """Return the value of a distribution that lies at a place from 0 to 1."""
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        return min(max(exp(log(low) + place * (log(high) - log(low))), low), high)
    value = low + place * (high - low)
    step = distribution.step
    return min(max(value if step is None else low + step * round((value - low) / step), low), high)


def sampler(seed: int, sigma: float) -> Any:
    """Return a sampler of Optuna."""
    cmaes = _library()
    from optuna.distributions import CategoricalDistribution
    from optuna.samplers import BaseSampler, RandomSampler
    from optuna.search_space import IntersectionSearchSpace
    from optuna.trial import TrialState

    class CmaEs(BaseSampler):
        """Tells all generations again, and asks for one more."""

        def __init__(self) -> None:
            self._space = IntersectionSearchSpace(include_pruned=True)
            self._random = RandomSampler(seed=seed)

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            """Return the keys that are numbers; with one alone there is no covariance."""
            found = {
                key: each
                for key, each in self._space.calculate(study).items()
                if not isinstance(each, CategoricalDistribution) and not each.single()
            }
            return found if len(found) > 1 else {}

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> Any:
            """Return the numbers of the next trial."""
            if not search_space:
                return {}
            size = len(search_space)
            bounds = np.tile([0.0, 1.0], (size, 1))
            optimizer = cmaes.CMA(np.full(size, 0.5), sigma, bounds, seed=seed)
            sign = 1.0 if study.direction.name == "MINIMIZE" else -1.0
            states = (TrialState.COMPLETE, TrialState.PRUNED)
            done = [
                (_place(each.params, search_space), sign * each.value)
                for each in study.get_trials(deepcopy=False, states=states)
                if each.value is not None and search_space.keys() <= each.params.keys()
            ]
            for generation in _whole(done, optimizer.population_size):
                optimizer.tell(generation)
            place = optimizer.ask()
            return _named(search_space, place)

        def sample_independent(
            self, study: Any, trial: Any, param_name: str, param_distribution: Any
        ) -> Any:
            """Return a value at random."""
            return self._random.sample_independent(study, trial, param_name, param_distribution)

    return CmaEs()


def _named(space: Mapping[str, Any], place: np.ndarray) -> dict[str, Any]:
    """Return the values of a place by key."""
    return {
        key: each.to_external_repr(from_unit(each, float(where)))
        for (key, each), where in zip(space.items(), place, strict=True)
    }


def _library() -> Any:
    try:
        import cmaes
    except ImportError as error:
        raise MissingPackage("search.sampler=cmaes", "cmaes", "search") from error
    return cmaes


def _place(params: Mapping[str, Any], space: Mapping[str, Any]) -> np.ndarray:
    return np.array([to_unit(each, float(params[key])) for key, each in space.items()])


def _whole(done: Sequence[Any], size: int) -> list[list[Any]]:
    """Return the generations that are complete."""
    return [list(done[at : at + size]) for at in range(0, len(done) - size + 1, size)]
