"""Two affine maps with an activation between them."""

from collections.abc import Callable

from llmlab.errors import ConfigError
from llmlab.layers.activations import Activation
from llmlab.layers.activations import activation as build_activation
from llmlab.layers.base import LAYERS, Layer
from llmlab.layers.initialisations import InitSpec
from llmlab.layers.linear import Linear
from llmlab.registry import Spec


@LAYERS.register("feed_forward")
class FeedForward(Layer):
    """y = activation(x @ up) @ down, each row by itself (Vaswani et al. 2017, §3.3).

    up is (embedding_dim, hidden_dim), down is (hidden_dim, embedding_dim); `linear` says which
    layer they are.
    """

    def __init__(
        self,
        embedding_dim: int,
        hidden_dim: int,
        activation: Activation | Spec = "relu",
        bias: bool = True,
        init: InitSpec = "he",
        output_init: InitSpec | None = None,
        linear: Callable[..., Layer] = Linear,
    ):
        if hidden_dim < 1:
            raise ConfigError(f"hidden_dim={hidden_dim}: must be at least 1")
        self.hidden_dim = hidden_dim
        self.activation = build_activation(activation)
        c, h = embedding_dim, hidden_dim
        self.up = linear(embedding_dim=c, output_dim=h, bias=bias, init=init)
        self.down = linear(embedding_dim=h, output_dim=c, bias=bias, init=output_init or init)

    def children(self):
        """Return the two maps."""
        return {"up": self.up, "down": self.down}

    def forward(self, p, x, ctx):
        """Return activation(x @ up) @ down."""
        h, up_cache = self.up.forward(p["up"], x, ctx)
        a, activation_cache = self.activation.forward(h, ctx)
        y, down_cache = self.down.forward(p["down"], a, ctx)
        return y, (up_cache, activation_cache, down_cache)

    def backward(self, p, g, dy, cache, ctx):
        """Return dx."""
        up_cache, activation_cache, down_cache = cache
        da = self.down.backward(p["down"], g["down"], dy, down_cache, ctx)
        dh = self.activation.backward(da, activation_cache, ctx)
        return self.up.backward(p["up"], g["up"], dh, up_cache, ctx)
