"""Adam and AdamW."""

from llmlab.errors import ConfigError
from llmlab.optim.base import OPTIMIZERS, Optimizer, check_decay, check_share, decayed, span


@OPTIMIZERS.register("adam")
class Adam(Optimizer):
    """m̂ / (√v̂ + eps) with bias-corrected moments (Kingma and Ba 2015, arXiv:1412.6980)."""

    state_names = ("m", "v")

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8):
        check_share(beta1=beta1, beta2=beta2)
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

    def owned(self, layout, part):
        """Return one span."""
        return [span(layout.size, part)]


@OPTIMIZERS.register("adamw")
class AdamW(Optimizer):
    """Adam, and weights but norms and biases shrink by lr · weight_decay each step.

    Loshchilov and Hutter 2019, arXiv:1711.05101.
    """

    state_names = ("m", "v")

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        no_decay: list[str] | None = None,
    ):
        check_share(beta1=beta1, beta2=beta2)
        if not eps > 0:
            raise ConfigError(f"eps={eps}: must be positive")
        self.no_decay = check_decay(weight_decay, no_decay)
        self.betas, self.eps, self.weight_decay = (beta1, beta2), eps, weight_decay

    def update(self, params, grads, state, *, lr, step, scale, part, ctx):
        """Update one part of the flat vectors."""
        p, g, m, v = params.flat, grads.flat, state["m"].flat, state["v"].flat
        for at, shrinks in decayed(params.layout, span(len(p), part), self.no_decay):
            decay = lr * self.weight_decay if shrinks else 0.0
            ctx.kernels.adam(
                ctx, p[at], g[at], m[at], v[at], lr, self.betas, self.eps, step, scale, decay
            )

    def owned(self, layout, part):
        """Return one span."""
        return [span(layout.size, part)]
