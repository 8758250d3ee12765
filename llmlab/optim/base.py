"""What an optimizer and a schedule are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from llmlab.params import Arena
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
