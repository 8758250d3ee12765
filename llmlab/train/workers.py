"""Who does the shards' work: this process alone, or others, too."""

from collections.abc import Sequence
from typing import Protocol

from llmlab.train.batch_shards import Shard, ShardBatch


class Workers(Protocol):
    """All shards of a step, of which one is this process's own.

    A step is `gradients`, `reduce` and, if all is finite, `update`.
    """

    shard: Shard

    def gradients(self, shares: Sequence[Sequence[ShardBatch]], scale: float, step: int) -> float:
        """Fill each shard's gradients from its share; return the sum of the weighted losses."""
        ...

    def reduce(self) -> float:
        """Sum the shards' gradients, in fixed order; return the squared norm of the sum."""
        ...

    def update(self, lr: float, step: int, scale: float) -> None:
        """Update the parameters."""
        ...

    def fetch_gradient(self) -> None:
        """Bring the parts of the gradient that other machines hold."""
        ...

    def fetch_state(self) -> None:
        """Bring the parts of the optimizer's memory that other machines hold."""
        ...

    def close(self) -> None:
        """End all processes that were started."""
        ...


class OneMachine(Workers, Protocol):
    """Workers of one machine, which may be one of several."""

    def losses(
        self, shares: Sequence[Sequence[ShardBatch]], scale: float, step: int
    ) -> list[float]:
        """Fill each shard's gradients from its share; return its sum of the weighted losses."""
        ...

    def squared_norms(self) -> list[float]:
        """Return the squared norm of each shard's part of the first gradient."""
        ...


def total(values: Sequence[float]) -> float:
    """Return the sum of what the shards return, always in the same order."""
    return values[0] + sum(values[1:])


class Here:
    """What workers without other machines need not do."""

    def fetch_gradient(self) -> None:
        """Do nothing: it is here."""

    def fetch_state(self) -> None:
        """Do nothing: it is here."""


class Alone(Here):
    """One shard, in this process."""

    def __init__(self, shard: Shard):
        self.shard = shard
        self.reduce, self.update = shard.reduce, shard.update

    def gradients(self, shares: Sequence[Sequence[ShardBatch]], scale: float, step: int) -> float:
        """Fill the gradients; return the sum of the weighted losses."""
        return self.shard.gradients(shares[0], scale, step)

    def losses(
        self, shares: Sequence[Sequence[ShardBatch]], scale: float, step: int
    ) -> list[float]:
        """Fill the gradients; return the sum of the weighted losses, alone in a list."""
        return [self.gradients(shares, scale, step)]

    def squared_norms(self) -> list[float]:
        """Return the squared norm of the gradient, alone in a list."""
        return [self.shard.squared_norm()]

    def close(self) -> None:
        """Do nothing."""
