"""Lion: the sign of an average."""

from llmlab.optim.base import OPTIMIZERS, Optimizer, check_decay, check_share, decayed, span


@OPTIMIZERS.register("lion")
class Lion(Optimizer):
    """p −= lr · (sign(β₁ m + (1 − β₁) g) + weight_decay · p), then m = β₂ m + (1 − β₂) g.

    Chen et al. 2023, arXiv:2302.06675, algorithm 2. Each step has length lr in every direction,
    so lr is 3 to 10 times smaller than Adam's, and weight_decay as much larger. Norms and
    biases are not decayed.
    """

    state_names = ("m",)

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.99,
        weight_decay: float = 1.0,
        no_decay: list[str] | None = None,
    ):
        check_share(beta1=beta1, beta2=beta2)
        self.no_decay = check_decay(weight_decay, no_decay)
        self.betas, self.weight_decay = (beta1, beta2), weight_decay

    def update(self, params, grads, state, *, lr, step, scale, part, ctx):
        """Update one part of the flat vectors."""
        p, g, m = params.flat, grads.flat, state["m"].flat
        for at, shrinks in decayed(params.layout, span(len(p), part), self.no_decay):
            decay = lr * self.weight_decay if shrinks else 0.0
            ctx.kernels.lion(ctx, p[at], g[at], m[at], lr, self.betas, scale, decay)

    def owned(self, layout, part):
        """Return one span."""
        return [span(layout.size, part)]
