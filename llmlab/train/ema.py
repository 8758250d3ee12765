"""A running mean of the weights, which is often better than the last ones."""

from typing import Any

from llmlab.errors import ConfigError
from llmlab.params import Arena


class WeightAverage:
    """mean = d · mean + (1 − d) · weights after each update (Polyak and Juditsky 1992).

    d is `decay`, but at first (1 + t) / (10 + t) at update t, so the mean soon forgets the
    initial values. Its whole state is `arena`.
    """

    def __init__(self, params: Arena, decay: float):
        if not 0 < decay < 1:
            raise ConfigError(f"ema={decay}: must be between 0 and 1; usual is 0.99 to 0.9999")
        self.decay = decay
        self.arena = params.layout.zeros(params.flat.dtype)
        self.arena.flat[:] = params.flat

    def update(self, params: Arena, updates: int, ctx: Any) -> None:
        """Take the weights after an update, of which this is the `updates`-th."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        ctx.kernels.average(ctx, self.arena.trained.flat, params.trained.flat, decay)
