"""A search as Hydra runs it: its space, in Hydra's own syntax, and the workers."""

import time
from collections.abc import Mapping, Sequence
from math import nextafter
from types import SimpleNamespace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.core.override_parser.types import Override as Parsed
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from llmlab.cli.arguments import token, typed_keys
from llmlab.cli.sweep import is_of_a_job
from llmlab.errors import ConfigError, ResourceError
from llmlab.phases import PHASES, checked_arguments
from llmlab.phases.search import Options
from llmlab.runs.overrides import Override, identity
from llmlab.runs.sweep import RESULT, Jobs, Plan, read_result, write_sweep
from llmlab.search.search import Search, Settings
from llmlab.search.space import Dimension
from llmlab.search.trial import folder_of
from llmlab.train.callbacks.pruning import validations

_FAILED_FIRST = 5  # trials that all fail, after which more would fail, too


class SearchSweeper(Sweeper):
    """Run trials until there are enough, in this process or in workers that a launcher starts.

    What comes next follows from the search's folder alone, so the same command goes on with a
    search that was stopped, and started several times it works on one search together.
    """

    def __init__(self, jobs: Jobs, record: dict[str, Any]):
        self._jobs, self._record = jobs, record

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what the workers need."""
        self.hydra_context, self.config, self._task = hydra_context, config, task_function

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials."""
        assert self.hydra_context is not None and self.config is not None
        for text in self._jobs.tokens:
            if Override.of(text).name == "hydra.sweep.subdir":
                raise ConfigError("hydra.sweep.subdir: a search names the folders of its trials")
        space, shared = _read_space(arguments, self.hydra_context.config_loader, self.config)
        options = _options(self.config, {key: text for key, (text, _) in space.items()}, arguments)
        if not space:
            raise ConfigError(
                "phase=search: nothing to search; give a key several values: "
                "'lr=tag(log,interval(1e-4,1e-1))'"
            )
        base = [*shared, f"phase={options.phase}"]
        settings = _settings(options, space, base)
        first = [_assigned(key, each.first()) for key, (_, each) in space.items()]
        self.validate_batch_is_legal([[*base, *first]])
        names = [folder_of(number) for number in range(options.trials)]
        ended = sum((self._jobs.folder / name / RESULT).is_file() for name in names)
        self._jobs.plan = Plan(names, options.trials, ended, time.time())
        Search(self._jobs.folder, settings)  # refused before any worker starts
        write_sweep(self._jobs.folder, self._record)
        worker = Worker(self._jobs, settings, base, self.hydra_context, self._task, self.config)
        self._start(worker, options, arguments)

    def _start(self, worker: "Worker", options: Options, arguments: list[str]) -> None:
        """Let workers work: here, or where the launcher puts them."""
        assert self.config is not None and self.hydra_context is not None
        launcher = self.config.hydra.runtime.choices["hydra/launcher"]
        if launcher == "basic":
            if (options.workers or 1) > 1:
                raise ConfigError(
                    f"search.workers={options.workers}: one process works on one trial at a time; "
                    "add launcher=joblib, or start this command several times"
                )
            worker(None)
            return
        if options.workers is None:
            raise ConfigError(
                f"launcher={launcher}: say how many workers it shall start: search.workers=4"
            )
        started = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=worker, config=self.config
        )
        own = [text for text in arguments if not _is_several(text)]
        batch = [[*own, "hydra.sweep.subdir=."] for _ in range(options.workers)]
        for done in started.launch(batch, initial_job_idx=0):
            _ = done.return_value


class Worker:
    """What works on trials, one after the other; a launcher may send it to another process."""

    def __init__(
        self,
        jobs: Jobs,
        settings: Settings,
        base: Sequence[str],
        hydra_context: HydraContext,
        task: TaskFunction,
        config: DictConfig,
    ):
        self._jobs, self._settings, self._base = jobs, settings, list(base)
        self._context, self._task, self._config = hydra_context, task, config

    def __call__(self, composed: Any) -> None:
        """Take trials until there is none to take."""
        # Hydra runs the files of its plug-ins anew when it starts, so this is imported late.
        from hydra._internal.core_plugins import basic_launcher

        basic_launcher.log.addFilter(is_of_a_job)
        launcher = basic_launcher.BasicLauncher()
        launcher.setup(hydra_context=self._context, task_function=self._task, config=self._config)
        search = Search(self._jobs.folder, self._settings)
        failed = 0
        while (trial := search.next()) is not None:
            with trial:
                self._jobs.trial = trial
                values = [_assigned(key, value) for key, value in trial.values.items()]
                tokens = [*self._base, *values, f"hydra.sweep.subdir={trial.folder}"]
                for done in launcher.launch([tokens], initial_job_idx=trial.number):
                    _ = done.return_value  # raises what the job has raised
                folder = self._jobs.folder / trial.folder
                result = read_result(folder)
                if result is None or result["status"] == "stopped":
                    return
                if result["status"] == "finished":
                    rows = validations(folder / "metrics.jsonl")
                    trial.catch_up([row["val_loss"] for row in rows])
                trial.tell(result, self._settings.objectives)
                failed = failed + 1 if result["status"] == "failed" and failed >= 0 else -1
                if failed == _FAILED_FIRST:
                    raise ResourceError(
                        f"search: the first {failed} trials of this worker failed, the last with: "
                        f"{result.get('error')}"
                    )


def _read_space(
    arguments: Sequence[str], loader: Any, config: DictConfig
) -> tuple[dict[str, tuple[str, Dimension]], list[str]]:
    """Return text and values of each key to search, and the tokens that all trials share."""
    own = OmegaConf.to_container(config.search, resolve=False)
    written = own.get("space") if isinstance(own, dict) else None
    if not isinstance(written, dict | None):
        raise ConfigError(f"search.space={written}: expected a mapping of keys to their values")
    texts = {key: token(Override("", key, text)) for key, text in _flat(written or {})}
    shared = []
    for text in arguments:
        name = Override.of(text).name
        if _is_several(text):
            texts[name] = text
        elif name != "phase" and name.split(".")[0] != "search":
            texts.pop(name, None)  # a single value on the command line is no longer searched
            shared.append(text)
    parser = OverridesParser.create(config_loader=loader)
    space = {key: _dimension(key, text, parser) for key, text in texts.items()}
    return space, shared


def _flat(values: Mapping[Any, Any], where: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping):
            found += _flat(value, name)
        elif isinstance(value, list):
            found.append((name, f"choice({','.join(map(_written, value))})"))
        else:
            found.append((name, _written(value)))
    return found


def _written(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value))


def _is_several(text: str) -> bool:
    try:
        return OverridesParser.create().parse_override(text).is_sweep_override()
    except HydraException:
        return False


def _dimension(key: str, text: str, parser: OverridesParser) -> tuple[str, Dimension]:
    """Return how a key's values were written, and what they are."""
    (parsed,) = parser.parse_overrides([text])
    written = str(Override.of(text).value)
    if not parsed.is_sweep_override():
        raise ConfigError(
            f"search.space.{key}={written}: one value; give several: choice(a,b), range(1,4), "
            "interval(0.1,1) or tag(log,interval(1e-4,1e-1))"
        )
    found = _values(parsed)
    found.check(key, written)
    return f"{Override.of(text).prefix}{written}" if "@" in text else written, found


def _values(parsed: Parsed) -> Dimension:
    value: Any = parsed.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        low, end = value.start or 0, value.end or 0
        if isinstance(low, int) and isinstance(end, int):  # int(interval(...))
            return Dimension(low=low, high=end - 1, step=1, log=log, integer=True)
        return Dimension(low=low, high=nextafter(end, low), log=log)
    if isinstance(value, RangeSweep):
        numbers = sorted(value.range())
        if not numbers:
            return Dimension(low=1, high=0)
        whole = all(isinstance(number, int) for number in numbers)
        step = abs(value.step)
        return Dimension(low=numbers[0], high=numbers[-1], step=step, log=log, integer=whole)
    return Dimension(options=tuple(parsed.sweep_string_iterator()))


def _assigned(key: str, value: str) -> str:
    """Return the token that gives a key a value; the value is in Hydra's grammar already."""
    given = token(Override("", key, "0"))
    return f"{given.partition('=')[0]}={value}"


def _options(config: DictConfig, space: Mapping[str, str], arguments: Sequence[str]) -> Options:
    """Return the arguments of the phase, checked."""
    own = OmegaConf.to_container(config.search, resolve=True)
    assert isinstance(own, dict)
    phase = PHASES["search"]
    given = {str(key): value for key, value in own.items()} | {"space": dict(space)}
    checked = checked_arguments(phase, "search", given, typed_keys(arguments))
    asked = SimpleNamespace(metric=config.get("metric"), direction=config.get("direction"))
    return (phase.load()(asked, **checked) or {})["options"]


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
