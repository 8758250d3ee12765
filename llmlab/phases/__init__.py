"""What a user can run; each phase is a function `run(config, run, **its own arguments)`."""

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llmlab.errors import ConfigError, suggest

if TYPE_CHECKING:
    from llmlab.config import Config
    from llmlab.registry import Registry

Run = Callable[..., dict[str, Any] | None]


@dataclass(frozen=True)
class Phase:
    """A phase, without its code."""

    module: str  # where its `run` lies, imported only when the phase runs
    meaning: str  # one line for the help
    # Whether it has a folder in runs/, and a `Run` to write to; so has an import.
    trains: bool = False
    wants_checkpoint: bool = False  # whether it takes the latest checkpoint when none is named
    function: Run | None = None  # its `run`, where that is known already

    def load(self) -> Run:
        """Return its `run`."""
        return self.function or importlib.import_module(self.module).run

    def load_after(self) -> Callable[[Any, dict[str, Any]], None] | None:
        """Return the function to call after the run is over and on record, if there is one."""
        return getattr(importlib.import_module(self.module), "after", None)


PHASES: dict[str, Phase] = {
    "full": Phase("llmlab.phases.full", "pre-train, tune, compare answers, chat", trains=True),
    "pretrain": Phase("llmlab.phases.training", "train on statements", trains=True),
    "tune": Phase(
        "llmlab.phases.training", "train on chats, from checkpoint= if given", trains=True
    ),
    "chat": Phase("llmlab.phases.chat", "talk with a checkpoint", wants_checkpoint=True),
    "generate": Phase("llmlab.phases.generate", "answer prompt= once", wants_checkpoint=True),
    "serve": Phase(
        "llmlab.phases.serve",
        "serve models over HTTP with OpenAI's API, and a page",
        wants_checkpoint=True,
    ),
    "score": Phase(
        "llmlab.phases.score", "the probability of each token of prompt=", wants_checkpoint=True
    ),
    "evaluate": Phase(
        "llmlab.phases.evaluate", "measure loss, perplexity and recall", wants_checkpoint=True
    ),
    "verify": Phase(
        "llmlab.phases.verify",
        "check the files of checkpoint=, a run or a sweep",
        wants_checkpoint=True,
    ),
    "compare": Phase("llmlab.phases.compare", "compare runs, sweeps or arms: compare.runs=[A,B]"),
    "diagnose": Phase(
        "llmlab.phases.diagnose", "say what is unusual in diagnose.run=, and draw its page"
    ),
    "runs": Phase("llmlab.phases.runs", "list runs and sweeps, or those of runs.where="),
    "clean": Phase(
        "llmlab.phases.clean", "list runs that can be deleted; clean.remove=true deletes them"
    ),
    "list": Phase("llmlab.phases.list", "all layers, optimizers, ... with arguments and defaults"),
    "check": Phase("llmlab.phases.check", "test what plugins= register against its contract"),
    "search": Phase("llmlab.phases.search", "search for the best values of keys, trial by trial"),
    "summary": Phase(
        "llmlab.phases.summary", "shapes, parameters, FLOPs and memory of the network"
    ),
    "inspect": Phase(
        "llmlab.phases.inspect",
        "a page about what happens inside checkpoint= with prompt=",
        wants_checkpoint=True,
    ),
    "profile": Phase("llmlab.phases.profile", "where the time of a training step goes"),
    "import": Phase("llmlab.phases.import_", "import the Hugging Face folder source=", trains=True),
    "export": Phase(
        "llmlab.phases.export",
        "export checkpoint= for Hugging Face, to target=",
        wants_checkpoint=True,
    ),
}


def register(
    name: str, *, trains: bool = False, wants_checkpoint: bool = False
) -> Callable[[Run], Run]:
    """Return a decorator that makes a function a phase, for modules that `plugins=` names.

    The function takes the configuration, and a `Run` or None; its other arguments are its own:
    `phase=NAME NAME.argument=value`. The first line of its docstring goes into the help.
    """

    def decorate(function: Run) -> Run:
        known = PHASES.get(name)
        if known is not None and known.module != function.__module__:
            raise ValueError(f"phase '{name}' is registered twice: {known.module}")
        meaning = (function.__doc__ or name).split("\n")[0].rstrip(".")
        PHASES[name] = Phase(function.__module__, meaning, trains, wants_checkpoint, function)
        return function

    return decorate


def own_arguments(name: str) -> "Registry":
    """Return a registry whose one entry takes the arguments of a phase's own."""
    from llmlab.registry import Registry

    registry = Registry("phase")
    # Without the configuration and the run, which every phase gets.
    registry.register(name)(partial(PHASES[name].load(), None, None))
    return registry


def arguments_of(config: "Config") -> dict[str, Any]:
    """Return the arguments of the phase's own, checked and of the types in its signature."""
    return checked_arguments(config.phase, config.arguments, config.typed)


def checked_arguments(
    name: str, arguments: Mapping[str, Any], typed: Collection[str]
) -> dict[str, Any]:
    """Return arguments of the phase called `name`, checked and of the types in its signature."""
    from llmlab.config.specs import Reader

    problems: list[str] = []
    reader = Reader(typed, problems)
    found = reader.checked({"type": name, **arguments}, own_arguments(name), name)
    if problems:
        raise ConfigError(problems)
    return {key: value for key, value in found.items() if key != "type"}


def find(name: str) -> Phase:
    """Return the phase called `name`."""
    if name not in PHASES:
        raise ConfigError(
            f"phase={name}: unknown phase{suggest(name, PHASES)}; known: {', '.join(PHASES)}; one "
            f"of your own needs plugins=FILE.py, and phase/{name}.yaml in a folder named by "
            "--config-dir"
        )
    return PHASES[name]
