"""Loss of a network on text: what validation and evaluation report."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, inf
from typing import Any

import numpy as np

from llmlab import kernels as kernel_sets
from llmlab.layers import Layer
from llmlab.params import Arena
from llmlab.workspace import Context


@dataclass(frozen=True)
class Losses:
    """Means over target tokens.

    Attributes
    ----------
    loss
        Negative log likelihood, in nats.
    accuracy
        Share of targets that are the most probable token.
    tokens
        Weight of the targets.
    """

    loss: float
    accuracy: float
    tokens: float

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return exp(self.loss) if self.loss < 700 else inf


class Evaluator:
    """Measure a stack on batches; its memory is kept from call to call."""

    def __init__(self, stack: Layer, params: Arena, kernels: Any = "numpy"):
        self.stack, self.params = stack, params
        loaded = kernel_sets.load(kernels) if isinstance(kernels, str) else kernels
        self._ctx = Context(loaded, params.flat.dtype)

    def measure(self, batches: Iterable[Any]) -> Losses:
        """Return the means over all batches (inputs, targets, weights (B, T))."""
        loss = right = tokens = 0.0
        ctx = self._ctx
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for batch in batches:
                ctx.begin(*batch.inputs.shape, segments=batch.segments, positions=batch.positions)
                logits, _ = self.stack.forward(
                    self.params.tree, np.ascontiguousarray(batch.inputs).reshape(-1), ctx
                )
                targets = np.ascontiguousarray(batch.targets).reshape(-1)
                weights = batch.weights.reshape(-1).astype(ctx.dtype)
                part, _ = ctx.kernels.cross_entropy(ctx, logits, targets, weights, 1.0)
                loss += part
                right += float(weights[np.argmax(logits, axis=1) == targets].sum(dtype=float))
                tokens += float(weights.sum(dtype=float))
        return Losses(loss / tokens, right / tokens, tokens)
