"""The models that are served, each with its batch."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.build import Model
from llmlab.checkpoints import CHECKPOINTS
from llmlab.errors import suggest
from llmlab.serve.batch import Batch
from llmlab.serve.errors import RequestError
from llmlab.serve.scheduler import Scheduler
from llmlab.text import Template
from llmlab.text.templates.none import NoTemplate

STAGES = ("pretrain", "tune")


@dataclass(frozen=True)
class Limits:
    """What a request may cost."""

    # Texts of a model that are decoded at once, and that wait for it
    rows: int = 16
    queue: int = 64
    # Bytes of a request's body, characters of its texts
    body: int = 1_000_000
    prompt: int = 100_000
    tokens: int = 4_096  # most tokens of an answer
    # Seconds for sending a request, and for its answer
    upload: float = 10.0
    seconds: float = 300.0


@dataclass(frozen=True)
class Served:
    """A model under the name that requests choose it by."""

    name: str
    model: Model
    template: Template
    created: int  # when its checkpoint was written, in seconds since 1970
    # How tokens are chosen, and how many, where a request doesn't say it
    sampler: Mapping[str, Any]
    limit: int | None
    scheduler: Scheduler
    # Whether an answer goes on when the context is full, if somebody said how far
    refills: bool = True

    @property
    def is_raw(self) -> bool:
        """Whether it continues texts and knows no roles."""
        return isinstance(self.template, NoTemplate)


class Models:
    """The models by name, in the order of the command line."""

    def __init__(self, served: Sequence[Served]):
        self._served = {each.name: each for each in served}

    def __iter__(self):
        return iter(self._served.values())

    def find(self, name: str | None) -> Served:
        """Return a model by name, the first for None; raise `RequestError` 404 for another."""
        if name is None:
            return next(iter(self))
        if name not in self._served:
            raise RequestError(
                f"model: there is no '{name[:100]}'{suggest(name[:100], self._served)}; served: "
                f"{', '.join(self._served)}",
                "model",
                404,
                "model_not_found",
            )
        return self._served[name]

    def end_now(self) -> None:
        """End all answers where they are."""
        for each in self:
            each.scheduler.end_now()


def scheduler_of(model: Model, kernels: str, limits: Limits, executor: Executor) -> Scheduler:
    """Return what decodes with a model; to be called where the event loop runs."""
    batch = Batch(model.network(kernels), limits.rows)
    return Scheduler(batch, limits.rows, limits.queue, executor)


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a short name for each checkpoint: its run's id, or the file's name."""
    names: list[str] = []
    for path in paths:
        run = path.parent.parent if path.parent.name == CHECKPOINTS else None
        if run is not None and run.name in STAGES:
            run = run.parent
        name = path.stem if run is None else run.name
        if name in names:
            name = f"{name}-{path.stem}"
        while name in names:
            name += "-2"
        names.append(name)
    return names
