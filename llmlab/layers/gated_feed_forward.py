"""Feed-forward with a gate: SwiGLU, GEGLU."""

from collections.abc import Callable

import numpy as np

from llmlab.errors import ConfigError
from llmlab.layers.activations import Activation
from llmlab.layers.activations import activation as build_activation
from llmlab.layers.base import LAYERS, Layer
from llmlab.layers.initialisations import InitSpec
from llmlab.layers.linear import Linear
from llmlab.registry import Spec


@LAYERS.register("gated_feed_forward")
class GatedFeedForward(Layer):
    """y = (activation(x @ gate) · (x @ up)) @ down (Shazeer 2020, arXiv:2002.05202).

    gate and up are (embedding_dim, hidden_dim), down is (hidden_dim, embedding_dim). With
    `silu` it is SwiGLU, with `gelu` or `gelu_tanh` GEGLU, with `relu` ReGLU. `linear` says
    which layer the maps are.
    """

    def __init__(
        self,
        embedding_dim: int,
        hidden_dim: int,
        activation: Activation | Spec = "silu",
        bias: bool = False,
        init: InitSpec = "he",
        output_init: InitSpec | None = None,
        linear: Callable[..., Layer] = Linear,
    ):
        if hidden_dim < 1:
            raise ConfigError(f"hidden_dim={hidden_dim}: must be at least 1")
        self.hidden_dim = hidden_dim
        self.activation = build_activation(activation)
        c, h = embedding_dim, hidden_dim
        self.gate = linear(embedding_dim=c, output_dim=h, bias=bias, init=init)
        self.up = linear(embedding_dim=c, output_dim=h, bias=bias, init=init)
        self.down = linear(embedding_dim=h, output_dim=c, bias=bias, init=output_init or init)

    def children(self):
        """Return the three maps."""
        return {"gate": self.gate, "up": self.up, "down": self.down}

    def forward(self, p, x, ctx):
        """Return (activation(x @ gate) · (x @ up)) @ down."""
        h, gate_cache = self.gate.forward(p["gate"], x, ctx)
        a, activation_cache = self.activation.forward(h, ctx)
        u, up_cache = self.up.forward(p["up"], x, ctx)
        product = ctx.empty(u.shape)
        np.multiply(a, u, out=product)
        y, down_cache = self.down.forward(p["down"], product, ctx)
        return y, (gate_cache, activation_cache, a, up_cache, u, down_cache)

    def backward(self, p, g, dy, cache, ctx):
        """Return dx, the sum of what comes through gate and up."""
        gate_cache, activation_cache, a, up_cache, u, down_cache = cache
        dproduct = self.down.backward(p["down"], g["down"], dy, down_cache, ctx)
        da = ctx.empty(u.shape)
        np.multiply(dproduct, u, out=da)
        du = np.multiply(dproduct, a, out=dproduct)
        dh = self.activation.backward(da, activation_cache, ctx)
        dx = self.gate.backward(p["gate"], g["gate"], dh, gate_cache, ctx)
        dx += self.up.backward(p["up"], g["up"], du, up_cache, ctx)
        return dx
