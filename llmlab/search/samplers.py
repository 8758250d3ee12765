"""How the next trial is chosen, and when one is given up; arguments are those of Optuna.

A sampler is made anew for each trial, with a seed that derives from the trial's number: so what
it proposes follows from the trials before alone, however often the search was stopped.
"""

from typing import Any

from llmlab.errors import ConfigError, MissingPackage
from llmlab.registry import Registry

SEARCH_SAMPLERS = Registry("search sampler", supplied=("seed",))
PRUNERS = Registry("pruner")


@SEARCH_SAMPLERS.register("random")
def random(seed: int) -> Any:
    """Draw every trial by itself."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


@SEARCH_SAMPLERS.register("tpe")
def tpe(seed: int, startup: int = 10, candidates: int = 24) -> Any:
    """Tree-structured Parzen estimator (Bergstra et al. 2011), all keys together.

    Parameters
    ----------
    startup
        Random trials before it begins.
    candidates
        Drawn for each trial, of which the most promising one is taken.
    """
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=startup, n_ei_candidates=candidates)


@SEARCH_SAMPLERS.register("gp")
def gp(seed: int, startup: int = 10) -> Any:
    """Gaussian process; strong with few trials and keys that are numbers. Needs torch.

    Parameters
    ----------
    startup
        Random trials before it begins.
    """
    from importlib.util import find_spec

    from optuna.samplers import GPSampler

    if find_spec("torch") is None:
        raise MissingPackage("search.sampler=gp", "torch", "search-gp")
    return GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)


@SEARCH_SAMPLERS.register("cmaes")
def cmaes(seed: int, sigma: float = 0.25) -> Any:
    """CMA-ES (Hansen 2001), of numbers alone; choices are drawn at random.

    Parameters
    ----------
    sigma
        First standard deviation, as a share of each key's range.
    """
    from llmlab.search.cmaes import sampler

    if not 0 < sigma <= 1:
        raise ConfigError(f"sigma={sigma}: must be above 0 and at most 1")
    return sampler(seed, sigma)


@PRUNERS.register("median")
def median(startup: int = 5, warmup: int = 0) -> Any:
    """Give up what is worse than the median of the trials before, validation by validation.

    Parameters
    ----------
    startup
        Finished trials before any is given up.
    warmup
        First validations of a trial that don't count.
    """
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)


@PRUNERS.register("hyperband")
def hyperband(least: int = 1, reduction: int = 3) -> Any:
    """Hyperband (Li et al. 2018): few go on at each rung, with several first rungs.

    Parameters
    ----------
    least
        Validations that every trial has.
    reduction
        How many times fewer go on at each rung.
    """
    from optuna.pruners import HyperbandPruner

    if least < 1 or reduction < 2:
        raise ConfigError(f"least={least}, reduction={reduction}: at least 1 and 2")
    return HyperbandPruner(min_resource=least, reduction_factor=reduction)
