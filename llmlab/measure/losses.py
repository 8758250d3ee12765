"""Loss of a network on text: what validation and evaluation report."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, inf, log, nan, sqrt

import numpy as np

from llmlab.batch import Batch
from llmlab.measure.intervals import wilson
from llmlab.network import Network


@dataclass(frozen=True)
class Losses:
    """Means over target tokens."""

    loss: float  # negative log likelihood, in nats
    accuracy: float  # share of targets that are the most probable token
    tokens: float  # weight of the targets
    # Standard errors, from how the rows of the batches differ; nan for a single row. Tokens of one
    # row hang together, so rows are what is independent.
    loss_error: float = nan
    accuracy_error: float = nan
    # Bits for each byte of the targets' text, which doesn't hang on the tokenizer; None if the
    # bytes weren't given.
    bits_per_byte: float | None = None
    # 95 % interval of the accuracy: Wilson's, for as many trials as have that standard error, at
    # most one a target, or as there are rows where none differ.
    accuracy_interval: tuple[float, float] = (0.0, 1.0)

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return exp(self.loss) if self.loss < 700 else inf


class Evaluator:
    """Measure a network on batches; its memory is kept from call to call."""

    def __init__(self, network: Network):
        self.network = network

    def measure(self, batches: Iterable[Batch], byte_lengths: np.ndarray | None = None) -> Losses:
        """Return the means over all batches.

        `byte_lengths` (V,) says how many bytes of text each token stands for.
        """
        losses, hits = _Ratio(), _Ratio()
        size = 0.0
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for batch in batches:
                weights = batch.weights.astype(float)
                nats, right = self._tokens(batch)
                losses.add((nats * weights).sum(axis=1), weights.sum(axis=1))
                hits.add((right * weights).sum(axis=1), weights.sum(axis=1))
                if byte_lengths is not None:
                    size += float((byte_lengths[batch.targets] * weights).sum())
        bits = None if byte_lengths is None or not size else losses.total / log(2) / size
        p, error, trials = hits.mean, hits.error, float(hits.rows)
        if error > 0:
            trials = min(p * (1 - p) / error**2, hits.weight)
        interval = wilson(p, trials) if hits.weight else (0.0, 1.0)
        return Losses(losses.mean, p, losses.weight, losses.error, error, bits, interval)

    def _tokens(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Return the nats of each target (B, T), and whether it is the most probable token."""
        ctx, shape = self.network.ctx, batch.inputs.shape
        logits = self.network.forward(
            batch.inputs, segments=batch.segments, positions=batch.positions
        ).reshape(batch.inputs.size, -1)
        targets = np.ascontiguousarray(batch.targets).reshape(-1)
        right = np.argmax(logits, axis=1) == targets
        with ctx.scratch():
            shifted = ctx.empty(logits.shape)
            np.subtract(logits, logits.max(axis=1, keepdims=True), out=shifted)
            nats = -shifted[np.arange(len(targets)), targets].astype(float)
            np.exp(shifted, out=shifted)
            nats += np.log(shifted.sum(axis=1, dtype=float))
        return nats.reshape(shape), right.reshape(shape)


class _Ratio:
    """Sums over rows that give a ratio of two of them, and its standard error."""

    def __init__(self) -> None:
        self.total = self.weight = 0.0
        self._squares = np.zeros(3)
        self.rows = 0

    def add(self, totals: np.ndarray, weights: np.ndarray) -> None:
        """Take the sums of some rows, (B,) each."""
        self.total += float(totals.sum())
        self.weight += float(weights.sum())
        self._squares += (totals @ totals, totals @ weights, weights @ weights)
        self.rows += int(np.count_nonzero(weights))

    @property
    def mean(self) -> float:
        """The ratio; nan without any weight."""
        return self.total / self.weight if self.weight else nan

    @property
    def error(self) -> float:
        """Standard error of the ratio, by the deviations of the rows from it."""
        if self.rows < 2:
            return nan
        own, cross, other = self._squares
        square = own - 2 * self.mean * cross + self.mean**2 * other
        return sqrt(max(square, 0.0) * self.rows / (self.rows - 1)) / self.weight
