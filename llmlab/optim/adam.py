"""Adam."""

from llmlab.errors import ConfigError
from llmlab.optim.base import OPTIMIZERS, Optimizer, span


@OPTIMIZERS.register("adam")
class Adam(Optimizer):
    """m̂ / (√v̂ + eps) with bias-corrected moments (Kingma and Ba 2015, arXiv:1412.6980)."""

    slots = ("m", "v")

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8):
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise ConfigError(f"{name}={value}: must be in [0, 1)")
        if not eps > 0:
            raise ConfigError(f"eps={eps}: must be positive")
        self.betas, self.eps = (beta1, beta2), eps

    def update(self, params, grads, state, *, lr, step, scale, part, ctx):
        """Update one part of the flat vectors."""
        at = span(len(params.flat), part)
        m, v = state["m"].flat[at], state["v"].flat[at]
        ctx.kernels.adam(
            ctx, params.flat[at], grads.flat[at], m, v, lr, self.betas, self.eps, step, scale
        )
