"""What a user can ask for; each phase is a module with a function `run(config, run)`."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmlab.errors import ConfigError, suggest


@dataclass(frozen=True)
class Phase:
    """A phase, without its code.

    Attributes
    ----------
    module
        Where its `run` lies, imported only when the phase runs.
    meaning
        One line for the help.
    trains
        Whether it has a folder in runs/, and a `Run` to write to; so has an import.
    wants_checkpoint
        Whether it takes the latest checkpoint when none is named.
    """

    module: str
    meaning: str
    trains: bool = False
    wants_checkpoint: bool = False

    def load(self) -> Callable[[Any, Any], dict[str, Any] | None]:
        """Import the module and return its `run`."""
        return importlib.import_module(self.module).run

    def load_after(self) -> Callable[[Any, dict[str, Any]], None] | None:
        """Return what the module does when its run is over and on record, if anything."""
        return getattr(importlib.import_module(self.module), "after", None)


PHASES: dict[str, Phase] = {
    "full": Phase("llmlab.phases.full", "pre-train, tune, compare answers, chat", trains=True),
    "pretrain": Phase("llmlab.phases.training", "train on statements", trains=True),
    "tune": Phase(
        "llmlab.phases.training", "train on chats, from checkpoint= if given", trains=True
    ),
    "chat": Phase("llmlab.phases.chat", "talk with a checkpoint", wants_checkpoint=True),
    "generate": Phase("llmlab.phases.generate", "answer prompt= once", wants_checkpoint=True),
    "score": Phase(
        "llmlab.phases.score", "how probable each token of prompt= is", wants_checkpoint=True
    ),
    "evaluate": Phase(
        "llmlab.phases.evaluate", "measure loss, perplexity and recall", wants_checkpoint=True
    ),
    "verify": Phase(
        "llmlab.phases.verify",
        "check the files of checkpoint=, a run's or a sweep's",
        wants_checkpoint=True,
    ),
    "list": Phase("llmlab.phases.list", "everything registered, with arguments and defaults"),
    "summary": Phase(
        "llmlab.phases.summary", "shapes, parameters, FLOPs and memory of the network"
    ),
    "profile": Phase("llmlab.phases.profile", "where the time of a training step goes"),
    "import": Phase(
        "llmlab.phases.import_", "read a Hugging Face folder, source=, as a checkpoint", trains=True
    ),
    "export": Phase(
        "llmlab.phases.export",
        "write a checkpoint for Hugging Face, target=",
        wants_checkpoint=True,
    ),
}


def find(name: str) -> Phase:
    """Return the phase called `name`."""
    if name not in PHASES:
        raise ConfigError(
            f"phase={name}: unknown phase{suggest(name, PHASES)}; known: {', '.join(PHASES)}"
        )
    return PHASES[name]
