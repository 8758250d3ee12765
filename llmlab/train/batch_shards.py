"""One worker's part of a step: rows of the batch, a part of the flat vectors."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmlab.batch import Batch
from llmlab.errors import TrainingError
from llmlab.layers import Layer
from llmlab.optim import Optimizer
from llmlab.optim.base import span
from llmlab.params import Arena
from llmlab.plugin_errors import located
from llmlab.streams import stream
from llmlab.workspace import Context


class ShardBatch(NamedTuple):
    """The rows of one batch that one shard works on, cut to their own longest row."""

    batch: Batch
    rows: np.ndarray  # number of each row in the step, (B,): dropout's streams are keyed by it


def cut(batch: Batch, count: int, first_row: int = 0) -> list[ShardBatch]:
    """Divide the rows of a batch among at most `count` shards, about equal work for each.

    Rows go by length, so that short ones are not padded to the longest of all.
    """
    time, lengths = batch.inputs.shape[1], batch.lengths()
    order = np.arange(len(lengths))
    if count > 1:
        order = np.argsort(lengths, kind="stable")
    found = []
    for rows in _balanced(order, lengths, count):
        longest = int(lengths[rows].max())
        whole = len(rows) == len(lengths) and longest == time and (rows[1:] > rows[:-1]).all()
        found.append(ShardBatch(batch if whole else batch.rows(rows, longest), rows + first_row))
    return found


def _balanced(order: np.ndarray, lengths: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield runs of `order` so that each but the last has its share of what is left."""
    while len(order):
        if count == 1 or len(order) == 1:
            yield order
            return
        areas = np.arange(1, len(order) + 1) * lengths[order]
        rest = np.arange(len(order) - 1, -1, -1) * lengths[order[-1]] / (count - 1)
        size = 1 + int(np.argmin(np.maximum(areas, rest)))
        yield order[:size]
        order, count = order[size:], count - 1


class RowStreams:
    """A generator for each row of a step, made when dropout first asks for them.

    Most networks never do, and making one costs 30 µs.
    """

    def __init__(self, seed: int, step: int, rows: np.ndarray):
        self._key, self._rows = (seed, "dropout", step), rows
        self._made: list[np.random.Generator] = []

    def __iter__(self) -> Iterator[np.random.Generator]:
        """Iterate over the rows' generators, each where it was left."""
        if not self._made:
            self._made = [stream(*self._key, int(row)) for row in self._rows]
        return iter(self._made)


class Shard:
    """Compute gradients of some rows, then update a part of the parameters."""

    def __init__(
        self,
        stack: Layer,
        params: Arena,
        # One arena for each shard of this machine; this one writes to `grads[rank]`
        grads: Sequence[Arena],
        state: dict[str, Arena],
        optimizer: Optimizer,
        kernels: Any,
        rank: int,
        seed: int | None,  # of dropout's streams; None for no randomness
        label_smoothing: float = 0.0,  # share of each target that all tokens get alike
        # (index, number of all shards) of each part of the flat vectors that this shard updates;
        # the first is that of which it returns the norm. None: one, as `rank` says.
        parts: Sequence[tuple[int, int]] | None = None,
    ):
        self.stack, self.params, self.grads, self.state = stack, params, grads, state
        self.optimizer, self.rank, self.seed = optimizer, rank, seed
        self.kernels, self.label_smoothing = kernels, label_smoothing
        self.parts = parts or [(rank, len(grads))]
        self.ctx = Context(kernels, params.flat.dtype)

    def gradients(self, shares: Sequence[ShardBatch], scale: float, step: int) -> float:
        """Fill this shard's gradients; return its sum of weighted losses (nats).

        `scale` is one over the weight of the whole step's targets.
        """
        ctx, own = self.ctx, self.grads[self.rank]
        if not shares:  # fewer rows than shards
            own.flat.fill(0)
        ctx.fresh, ctx.unwanted = set(own.ids if shares else ()), own.unwanted
        loss = 0.0
        for batch, rows in shares:
            weights = batch.weights.reshape(-1).astype(ctx.dtype, copy=False)
            targets = batch.targets.reshape(-1)
            ctx.begin(
                *batch.inputs.shape,
                rng=self._streams(step, rows),
                segments=batch.segments,
                positions=batch.positions,
                weights=weights,
                loss_scale=scale,
            )
            with located(self.stack):
                logits, cache = self.stack.forward(self.params.tree, batch.inputs.reshape(-1), ctx)
            last = logits.shape[1] - 1
            if targets.max(initial=0) > last:  # a kernel would write beyond its row
                raise ValueError(f"target {targets.max()}: must be 0 to {last}")
            part, dlogits = self.kernels.cross_entropy(ctx, logits, targets, weights, scale)
            if self.label_smoothing:
                part += self.kernels.smooth_labels(
                    ctx, logits, targets, weights, scale, self.label_smoothing, dlogits
                )
            with located(self.stack):
                self.stack.backward(self.params.tree, own.tree, dlogits, cache, ctx)
            loss += part + ctx.extra_loss()
        if ctx.fresh:
            raise TrainingError(unwritten(own, ctx.fresh))
        return loss

    def reduce(self) -> float:
        """Add the shards' gradients, in order, in this shard's part of the first.

        Return the squared norm of the part.
        """
        total = self._part(self.grads[0])
        for other in self.grads[1:]:
            total += self._part(other)
        return self.squared_norm()

    def squared_norm(self) -> float:
        """Return the squared norm of this shard's part of the whole gradient."""
        total = self._part(self.grads[0])
        return float(np.dot(total, total))

    def _part(self, arena: Arena) -> np.ndarray:
        return arena.flat[span(arena.layout.size, self.parts[0])]

    def update(self, lr: float, step: int, scale: float) -> None:
        """Let the optimizer change this shard's parts of the parameters."""
        for part in self.parts:
            self.ctx.begin(0, 0)
            self.optimizer.update(
                self.params.trained,
                self.grads[0],
                self.state,
                lr=lr,
                step=step,
                scale=scale,
                part=part,
                ctx=self.ctx,
            )

    def _streams(self, step: int, rows: np.ndarray) -> RowStreams | None:
        return None if self.seed is None else RowStreams(self.seed, step, rows)


def unwritten(grads: Arena, fresh: set[int]) -> str:
    """Return a message that names the gradients that nobody wrote, and how to write them.

    It is empty if there are none.
    """
    names = ", ".join(name for name, view in grads.items() if id(view) in fresh)
    return names and (
        f"{names}: backward wrote no gradient; a layer adds to ctx.gradient(g['weight']), not to "
        "g['weight'], or calls ctx.add_product"
    )
