"""One worker's part of a step: rows of the batch, a part of the flat vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from llmlab.layers import Layer
from llmlab.optim import Optimizer
from llmlab.optim.base import span
from llmlab.params import Arena
from llmlab.streams import stream
from llmlab.workspace import Context


class Tokens(Protocol):
    """A batch: inputs, targets (B, T) ids, weights (B, T); segments, positions or None."""

    @property
    def inputs(self) -> np.ndarray: ...  # noqa: D102
    @property
    def targets(self) -> np.ndarray: ...  # noqa: D102
    @property
    def weights(self) -> np.ndarray: ...  # noqa: D102
    @property
    def segments(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def positions(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def tokens(self) -> float:
        """The sum of the weights."""
        ...


@dataclass(frozen=True)
class Piece:
    """Rows of one micro-batch, cut to their own longest row.

    Attributes
    ----------
    inputs, targets, weights
        (B·T,).
    rows
        Number of each row in the step, (B,): dropout's streams are keyed by it.
    """

    batch: int
    time: int
    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    rows: np.ndarray
    segments: np.ndarray | None = None
    positions: np.ndarray | None = None


def cut(batch: Tokens, count: int, first_row: int = 0) -> list[Piece]:
    """Divide the rows of a batch into at most `count` pieces of about equal work.

    Rows go by length, so that short ones are not padded to the longest of all.
    """
    used = batch.weights != 0
    time = batch.inputs.shape[1]
    lengths = time - np.argmax(used[:, ::-1], axis=1)
    lengths[~used.any(axis=1)] = 1
    order = np.arange(len(lengths))
    if count > 1:
        order = np.argsort(lengths, kind="stable")
    return [_piece(batch, rows, lengths, first_row) for rows in _balanced(order, lengths, count)]


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


def _piece(batch: Tokens, rows: np.ndarray, lengths: np.ndarray, first_row: int) -> Piece:
    time = int(lengths[rows].max())
    whole = len(rows) == len(lengths) and time == batch.inputs.shape[1] and _rising(rows)

    def part(x: np.ndarray) -> np.ndarray:
        return x if whole else np.ascontiguousarray(x[rows, :time])

    return Piece(
        batch=len(rows),
        time=time,
        inputs=part(batch.inputs).reshape(-1),
        targets=part(batch.targets).reshape(-1),
        weights=part(batch.weights).reshape(-1),
        rows=rows + first_row,
        segments=None if batch.segments is None else part(batch.segments),
        positions=None if batch.positions is None else part(batch.positions),
    )


def _rising(rows: np.ndarray) -> bool:
    return bool((rows[1:] > rows[:-1]).all())


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
    """Compute gradients of some rows, then update a part of the parameters.

    Parameters
    ----------
    grads
        One arena for each shard; this one writes to `grads[rank]`.
    seed
        Of dropout's streams; None for no randomness.
    label_smoothing
        Share of each target that all tokens get alike.
    """

    def __init__(
        self,
        stack: Layer,
        params: Arena,
        grads: Sequence[Arena],
        state: dict[str, Arena],
        optimizer: Optimizer,
        kernels: Any,
        rank: int,
        seed: int | None,
        label_smoothing: float = 0.0,
    ):
        self.stack, self.params, self.grads, self.state = stack, params, grads, state
        self.optimizer, self.rank, self.seed = optimizer, rank, seed
        self.kernels, self.label_smoothing = kernels, label_smoothing
        self.ctx = Context(kernels, params.flat.dtype)

    def gradients(self, pieces: Sequence[Piece], scale: float, step: int) -> float:
        """Fill this shard's gradients; return its sum of weighted losses (nats).

        `scale` is one over the weight of the whole step's targets.
        """
        ctx, own = self.ctx, self.grads[self.rank]
        ctx.fresh = set(own.ids)
        loss = 0.0
        for piece in pieces:
            weights = piece.weights.astype(ctx.dtype, copy=False)
            ctx.begin(
                piece.batch,
                piece.time,
                rng=self._streams(step, piece.rows),
                segments=piece.segments,
                positions=piece.positions,
                weights=weights,
                loss_scale=scale,
            )
            logits, cache = self.stack.forward(self.params.tree, piece.inputs, ctx)
            last = logits.shape[1] - 1
            if piece.targets.max(initial=0) > last:  # a kernel would write beyond its row
                raise ValueError(f"target {piece.targets.max()}: must be 0 to {last}")
            part, dlogits = self.kernels.cross_entropy(ctx, logits, piece.targets, weights, scale)
            if self.label_smoothing:
                part += self.kernels.smooth_labels(
                    ctx, logits, piece.targets, weights, scale, self.label_smoothing, dlogits
                )
            self.stack.backward(self.params.tree, own.tree, dlogits, cache, ctx)
            loss += part + ctx.extra_loss()
        if ctx.fresh:
            for view in own.views.values():
                ctx.gradient(view)
        return loss

    def reduce(self) -> float:
        """Add the shards' gradients, in order, in this shard's part; return its squared norm."""
        total = self.grads[0].flat[span(self.params.layout.size, (self.rank, len(self.grads)))]
        for other in self.grads[1:]:
            total += other.flat[span(self.params.layout.size, (self.rank, len(self.grads)))]
        return float(np.dot(total, total))

    def update(self, lr: float, step: int, scale: float) -> None:
        """Let the optimizer change this shard's part of the parameters."""
        self.ctx.begin(0, 0)
        self.optimizer.update(
            self.params,
            self.grads[0],
            self.state,
            lr=lr,
            step=step,
            scale=scale,
            part=(self.rank, len(self.grads)),
            ctx=self.ctx,
        )

    def _streams(self, step: int, rows: np.ndarray) -> RowStreams | None:
        return None if self.seed is None else RowStreams(self.seed, step, rows)
