"""Gradient descent with momentum."""

from llmlab.errors import ConfigError
from llmlab.optim.base import OPTIMIZERS, Optimizer, check_decay, check_share, decayed, span


@OPTIMIZERS.register("sgd")
class SGD(Optimizer):
    """m = momentum · m + g, p −= lr · m, where g includes weight_decay · p.

    With `nesterov` p −= lr · (g + momentum · m) (Sutskever et al. 2013). Norms and biases are
    not decayed.
    """

    def __init__(
        self,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        no_decay: list[str] | None = None,
    ):
        check_share(momentum=momentum)
        self.no_decay = check_decay(weight_decay, no_decay)
        if nesterov and not momentum:
            raise ConfigError("nesterov=true: needs a momentum above 0; usual is 0.9")
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        self.state_names = ("m",) if momentum else ()

    def update(self, params, grads, state, *, lr, step, scale, part, ctx):
        """Update one part of the flat vectors."""
        p, g = params.flat, grads.flat
        for at, shrinks in decayed(params.layout, span(len(p), part), self.no_decay):
            m = state["m"].flat[at] if self.momentum else None
            decay = self.weight_decay if shrinks else 0.0
            ctx.kernels.sgd(ctx, p[at], g[at], m, lr, self.momentum, self.nesterov, scale, decay)

    def owned(self, layout, part):
        """Return one span."""
        return [span(layout.size, part)]
