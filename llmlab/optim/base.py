"""What an optimizer and a schedule are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from llmlab.errors import ConfigError
from llmlab.params import Arena, Layout
from llmlab.registry import Registry
from llmlab.workspace import Context

OPTIMIZERS = Registry("optimizer")
SCHEDULES = Registry("schedule")

Schedule = Callable[[int], float]  # step (from 0) → factor on the learning rate; pure


class Optimizer(ABC):
    """A rule that changes parameters; what it remembers lies in arenas that it is given.

    Attributes
    ----------
    slots
        Names of the arenas that it keeps from step to step, which start at 0.
    """

    slots: tuple[str, ...] = ()

    @abstractmethod
    def update(
        self,
        params: Arena,
        grads: Arena,
        state: Mapping[str, Arena],
        *,
        lr: float,
        step: int,
        scale: float,
        part: tuple[int, int],
        ctx: Context,
    ) -> None:
        """Update `params` and `state` in place.

        Parameters
        ----------
        lr
            Learning rate of this step.
        step
            Number of this update, from 1.
        scale
            Factor on the gradients, from clipping.
        part
            (index, count): this call updates the index-th of count parts; the parts together
            are the whole, and none depends on another.
        ctx
            Kernels and scratch memory.
        """


def span(size: int, part: tuple[int, int], align: int = 16) -> slice:
    """Return the `part` of a vector of `size` items, cut on cache lines."""
    index, count = part
    lines = -(-size // align)
    return slice(
        min(lines * index // count * align, size), min(lines * (index + 1) // count * align, size)
    )


def decayed(layout: Layout, at: slice) -> list[tuple[slice, bool]]:
    """Divide a part of the flat vectors into what weight decay shrinks and what it doesn't.

    Norms and biases are not decayed; the layout puts them last.
    """
    border = min(max(at.start, layout.ranges["undecayed"].start), at.stop)
    parts = [(slice(at.start, border), True), (slice(border, at.stop), False)]
    return [(part, shrinks) for part, shrinks in parts if part.start < part.stop]


def check_share(**arguments: float) -> None:
    """Raise a ConfigError that names the first argument outside [0, 1)."""
    for name, value in arguments.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{name}={value}: must be in [0, 1)")


def check_decay(weight_decay: float) -> None:
    """Raise a ConfigError if a weight decay is negative or not a number."""
    if not weight_decay >= 0:
        raise ConfigError(f"weight_decay={weight_decay}: must not be negative; usual is 0 to 0.1")
