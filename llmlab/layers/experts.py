"""A mixture of experts: each token goes through a few of many feed-forward layers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from llmlab.errors import ConfigError
from llmlab.layers.activations import Activation
from llmlab.layers.base import LAYERS, Layer
from llmlab.layers.feed_forward import FeedForward
from llmlab.layers.gated_feed_forward import GatedFeedForward
from llmlab.layers.initialisations import InitSpec
from llmlab.layers.linear import Linear
from llmlab.layers.routing import Choice, balance_loss, choose, choose_backward
from llmlab.registry import Spec
from llmlab.workspace import Context


class ExpertsCache(NamedTuple):
    """What `MixtureOfExperts.forward` keeps."""

    probabilities: np.ndarray  # the router's, (B·T, E)
    choice: Choice  # which experts each token went to
    outputs: np.ndarray  # the chosen experts' outputs, (k · B·T, C)
    dbalance: np.ndarray | None
    router_cache: Any
    expert_caches: list[Any]


_MOST_EXPERTS = 1_000


@LAYERS.register("mixture_of_experts")
class MixtureOfExperts(Layer):
    """y = Σ gate_e · expert_e(x) over the `top_k` experts of the largest softmax(x @ router).

    Each expert is a (gated) feed-forward layer (Shazeer et al. 2017, arXiv:1701.06538; as in
    Mixtral, arXiv:2401.04088). To keep all experts in use, the loss is raised by

        balance · E · Σ_e f_e · P_e

    with f_e the share of a sample's choices that fell on e, and P_e the mean of its probabilities
    over the sample. With all experts used equally this has its minimum, `balance` (Fedus et al.
    2021, arXiv:2101.03961, but sample by sample, so it doesn't depend on how a batch is divided
    or packed).

    Parameters
    ----------
    num_experts, top_k
        E, and how many of them a token uses.
    balance
        Weight of this auxiliary (load-balancing) loss; 0 for none.
    normalize
        Whether the gates of the chosen experts are made to sum to 1.
    gated, activation, bias, linear
        Of the experts: `gated_feed_forward` or `feed_forward`.
    """

    def __init__(
        self,
        embedding_dim: int,
        hidden_dim: int,
        num_experts: int = 8,
        top_k: int = 2,
        balance: float = 0.01,
        normalize: bool = True,
        gated: bool = True,
        activation: Activation | Spec = "silu",
        bias: bool = False,
        init: InitSpec = "he",
        output_init: InitSpec | None = None,
        linear: Callable[..., Layer] = Linear,
    ):
        if not 1 <= num_experts <= _MOST_EXPERTS:
            raise ConfigError(f"num_experts={num_experts}: must be 1 to {_MOST_EXPERTS:,}")
        if not 1 <= top_k <= num_experts:
            raise ConfigError(f"top_k={top_k}: must be 1 to num_experts={num_experts}")
        if normalize and top_k == 1 and num_experts > 1:
            raise ConfigError(
                "top_k=1: with normalize=true its gate is always 1 and the router learns nothing; "
                "set normalize=false, or top_k=2"
            )
        if not balance >= 0:
            raise ConfigError(f"balance={balance}: must not be negative; 0 for none")
        kind = GatedFeedForward if gated else FeedForward
        inner = (activation, bias, init, output_init, linear)
        self.expert = kind(embedding_dim, hidden_dim, *inner)
        self.router = Linear(embedding_dim, num_experts, bias=False, init=init)
        self.router.group = "decayed"
        self.names = [f"experts.{number}" for number in range(num_experts)]
        self.embedding_dim, self.num_experts, self.top_k = embedding_dim, num_experts, top_k
        self.balance, self.normalize = balance, normalize

    def children(self):
        """Return the router and the experts: one description, as many sets of parameters."""
        return {"router": self.router} | dict.fromkeys(self.names, self.expert)

    def forward(self, p, x, ctx):
        """Return the weighted sum of the chosen experts' outputs."""
        logits, router_cache = self.router.forward(p["router"], x, ctx)
        probabilities = ctx.kernels.softmax(ctx, logits, None)
        choice = choose(probabilities, self.top_k, self.normalize, ctx)
        dbalance = None
        if self.balance and ctx.weights is not None:
            dbalance = balance_loss(probabilities, choice, self.balance, ctx)
        # One place for each choice, ordered by expert, so that an expert's rows are a slice.
        inputs = ctx.empty((len(choice.rows), self.embedding_dim))
        np.take(x, choice.rows, axis=0, out=inputs, mode="clip")
        outputs, caches = ctx.empty(inputs.shape), []
        for name, part in zip(self.names, choice.parts, strict=True):
            h, cache = None, None
            if part.stop > part.start:
                h, cache = self.expert.forward(p[name], inputs[part], ctx)
                outputs[choice.places[part]] = h
            caches.append(cache)
        y = self._sum(outputs, choice.gates, ctx)
        return y, ExpertsCache(probabilities, choice, outputs, dbalance, router_cache, caches)

    def backward(self, p, g, dy, cache, ctx):
        """Return the gradients through the experts and through the router, added."""
        probabilities, choice, outputs, dbalance, router_cache, caches = cache
        dx = ctx.empty(dy.shape)
        with ctx.scratch():
            dinputs, drows = ctx.empty(outputs.shape), ctx.empty(outputs.shape)
            np.take(dy, choice.rows, axis=0, out=drows, mode="clip")
            drows *= choice.weights[:, None]
            for name, part, kept in zip(self.names, choice.parts, caches, strict=True):
                if kept is None:
                    _nothing(g[name], ctx)
                    continue
                with ctx.scratch():
                    d = self.expert.backward(p[name], g[name], drows[part], kept, ctx)
                    dinputs[choice.places[part]] = d
            self._sum(dinputs, None, ctx, dx)
            dgates = ctx.empty(choice.gates.shape)
            blocks = outputs.reshape(self.top_k, *dy.shape)
            np.einsum("nc,knc->kn", dy, blocks, out=dgates)
            dlogits = choose_backward(dgates, probabilities, choice, dbalance, self.normalize, ctx)
            dx += self.router.backward(p["router"], g["router"], dlogits, router_cache, ctx)
        return dx

    def routing(self, cache: ExpertsCache, ctx: Context) -> np.ndarray:
        """Return the weight of each expert's output for each token, (B, T, E); 0: not chosen."""
        gates = np.zeros(cache.probabilities.shape, ctx.dtype)
        gates.reshape(-1)[cache.choice.index] = cache.choice.gates
        return gates.reshape(ctx.batch, ctx.time, -1)

    def _sum(self, places: np.ndarray, gates: Any, ctx: Any, out: Any = None) -> np.ndarray:
        """Return the sum over a token's choices, weighted by `gates` (k, N) if given."""
        blocks = places.reshape(self.top_k, -1, self.embedding_dim)
        y = ctx.empty(blocks.shape[1:]) if out is None else out
        if gates is None:
            np.copyto(y, blocks[0])
            for block in blocks[1:]:
                y += block
            return y
        np.multiply(blocks[0], gates[0][:, None], out=y)
        with ctx.scratch():
            part = ctx.empty(y.shape)
            for block, gate in zip(blocks[1:], gates[1:], strict=True):
                np.multiply(block, gate[:, None], out=part)
                y += part
        return y

    def flops(self, batch, time):
        """Count the router and `top_k` experts for each token."""
        return self.router.flops(batch, time) + self.top_k * self.expert.flops(batch, time)


def _nothing(gradients: Any, ctx: Any) -> None:
    """Let an expert without tokens have gradients of 0."""
    for value in gradients.values():
        if isinstance(value, dict):
            _nothing(value, ctx)
        else:
            ctx.gradient(value)
