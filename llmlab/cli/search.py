"""A search as Hydra runs it: what is asked is checked once, and workers are started."""

import re
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from llmlab.cli.arguments import typed_keys
from llmlab.cli.launching import launcher_of
from llmlab.cli.order import Order
from llmlab.cli.places import conf_folder
from llmlab.cli.search_space import assigned, is_several, read_space
from llmlab.cli.search_worker import Worker
from llmlab.config import load
from llmlab.errors import ConfigError
from llmlab.phases import PHASES, checked_arguments
from llmlab.phases.search import Options
from llmlab.runs.overrides import Override, identity
from llmlab.runs.sweep import RESULT, Plan, write_sweep
from llmlab.search.search import Search, Settings
from llmlab.search.space import Dimension
from llmlab.search.trial import folder_of
from llmlab.study.metric import VALIDATED


class SearchSweeper(Sweeper):
    """Run trials until there are enough, in this process or in workers that a launcher starts.

    What comes next follows from the search's folder alone, so the same command goes on with a
    search that was stopped, and started several times it works on one search together.
    """

    def __init__(self, order: Order, is_worker: bool = False):
        self._order, self._jobs, self._record = order, order.jobs, order.record
        self._is_worker = is_worker

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what the workers need."""
        self._context, self._config, self._task = hydra_context, config, task_function

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials."""
        for text in self._jobs.tokens:
            if Override.of(text).name == "hydra.sweep.subdir":
                raise ConfigError("hydra.sweep.subdir: a search names the folders of its trials")
        space, shared = read_space(arguments, self._context.config_loader, self._config)
        options = _options(self._config, {key: text for key, (text, _) in space.items()}, arguments)
        if not space:
            raise ConfigError(
                "phase=search: nothing to search; give a key several values: "
                "'lr=tag(log,interval(1e-4,1e-1))'"
            )
        base = [*shared, f"phase={options.phase}"]
        settings = _settings(options, space, base)
        worker = Worker(self._jobs, settings, base, self._context, self._task, self._config)
        if self._is_worker:
            worker(None)
            return
        self._refuse_workers(options)
        self._try(options, settings, base)
        names = [folder_of(number) for number in range(options.trials)]
        ended = sum((self._jobs.folder / name / RESULT).is_file() for name in names)
        self._jobs.plan = Plan(names, options.trials, ended, time.time())
        Search(self._jobs.folder, settings)  # refused before any worker starts
        write_sweep(self._jobs.folder, self._record)
        self._start(worker, options, arguments)

    def _refuse_workers(self, options: Options) -> None:
        """Refuse a number of workers that the launcher can't start, and what is asked of seeds."""
        if self._config.get("seeds") is not None:
            raise ConfigError(
                "seeds=auto: the trials of a search have one seed each; leave it out, and train "
                "the best with more seeds at its end"
            )
        launcher = self._launcher()
        if launcher == "basic" and (options.workers or 1) > 1:
            raise ConfigError(
                f"search.workers={options.workers}: one process works on one trial at a time; add "
                "launcher=joblib, or start this command several times"
            )
        if launcher != "basic" and options.workers is None:
            raise ConfigError(
                f"launcher={launcher}: say how many workers it shall start: search.workers=4"
            )

    def _launcher(self) -> str:
        return str(self._config.hydra.runtime.choices["hydra/launcher"])

    def _try(self, options: Options, settings: Settings, base: list[str]) -> None:
        """Refuse what no trial could run with, before there is any."""
        first = {key: each.first() for key, each in settings.space.items()}
        given = [assigned(key, value) for key, value in first.items()]
        composed = self._composed([*base, *given])
        for key, each in settings.space.items():
            for value in each.options[1:] if (conf_folder() / key).is_dir() else ():
                self._composed([*base, *given, assigned(key, value)])
        shared = {Override.of(text).name for text in base}
        try:
            config = load(composed, typed_keys([*base, *given]))
        except ConfigError as error:
            # Values of the space may only not go together.
            sure = [p for p in error.problems if re.split("[=:]", p, maxsplit=1)[0] in shared]
            if sure:
                raise ConfigError(sure) from error
            return
        data = config.data[options.phase]
        needs = any(metric.name in VALIDATED for metric in options.objectives)
        searched = any(key.split(".")[0] == "data" for key in settings.space)
        if needs and data.get("val_fraction", 1) == 0 and not searched:
            raise ConfigError(
                f"data.{options.phase}: keeps no text for validation, which a search goes by: "
                f"data.{options.phase}.val_fraction=0.1 does; metric=loss is the training loss"
            )

    def _composed(self, tokens: list[str]) -> Any:
        composed = self._context.config_loader.load_sweep_config(self._config, tokens)
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        return composed

    def _start(self, worker: Worker, options: Options, arguments: list[str]) -> None:
        """Let workers work: here, or where the launcher puts them."""
        if self._launcher() == "basic":
            worker(None)
            return
        started = launcher_of(self._order, self._context, worker, self._config)
        own = [text for text in arguments if not is_several(text)]
        batch = [[*own, "hydra.sweep.subdir=."] for _ in range(options.workers or 1)]
        for done in started.launch(batch, initial_job_idx=0):
            _ = done.return_value


def _options(config: DictConfig, space: Mapping[str, str], arguments: Sequence[str]) -> Options:
    """Return the arguments of the phase, checked."""
    own = OmegaConf.to_container(config.search, resolve=True)
    assert isinstance(own, dict)
    given = {str(key): value for key, value in own.items()} | {"space": dict(space)}
    checked = checked_arguments("search", given, typed_keys(arguments))
    asked = SimpleNamespace(metric=config.get("metric"), direction=config.get("direction"))
    return (PHASES["search"].load()(asked, **checked) or {})["options"]


def _settings(
    options: Options, space: Mapping[str, tuple[str, Dimension]], base: Sequence[str]
) -> Settings:
    return Settings(
        space={key: each for key, (_, each) in space.items()},
        texts={key: text for key, (text, _) in space.items()},
        base=identity(base),
        trials=options.trials,
        objectives=options.objectives,
        sampler=options.sampler,
        pruner=options.pruner,
        limits=options.limits,
        storage=options.storage,
        seed=options.seed,
    )
