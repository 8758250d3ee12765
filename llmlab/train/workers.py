"""Who does the shards' work: this process alone, or others, too."""

from collections.abc import Sequence
from typing import Protocol

from llmlab.train.batch_shards import Shard, ShardBatch


class Workers(Protocol):
    """All shards of a step, of which one is this process's own.

    A step is `gradients`, `reduce`, `squared_norm` and, if all is finite, `update`.
    """

    shard: Shard

    def gradients(self, shares: Sequence[Sequence[ShardBatch]], scale: float, step: int) -> float:
        """Fill each shard's gradients from its share; return the sum of the weighted losses."""
        ...

    def reduce(self) -> None:
        """Sum the shards' gradients, in fixed order."""
        ...

    def squared_norm(self) -> float:
        """Return the squared norm of that sum."""
        ...

    def update(self, lr: float, step: int, scale: float) -> None:
        """Update the parameters."""
        ...

    def close(self) -> None:
        """End all processes that were started."""
        ...


class Alone:
    """One shard, in this process."""

    def __init__(self, shard: Shard):
        self.shard = shard
        self.reduce, self.update = shard.reduce, shard.update
        self.squared_norm = shard.squared_norm

    def gradients(self, shares: Sequence[Sequence[ShardBatch]], scale: float, step: int) -> float:
        """Fill the gradients; return the sum of the weighted losses."""
        return self.shard.gradients(shares[0], scale, step)

    def close(self) -> None:
        """Do nothing."""
