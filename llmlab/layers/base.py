"""What a layer is."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from llmlab.params import Param
from llmlab.registry import Registry
from llmlab.workspace import Context

LAYERS = Registry("layer", ("vocab_size", "embedding_dim", "max_seq_len", "num_blocks"))
ACTIVATIONS = Registry("activation")
INITIALISATIONS = Registry("initialisation")
POSITIONS = Registry("position", ("head_dim", "num_heads", "num_kv_heads"))

Tree = dict[str, Any]  # parameters or gradients, nested as the layers are


class Layer(ABC):
    """A description of a function with learned arrays; it holds no arrays itself.

    Contract (tested for every registered layer): `forward` and `backward` write to none of
    their arguments except `g`, and return fresh arrays. So several threads can use one layer at
    once, and everything that `backward` needs is in `cache`.

    Rows between layers are (B·T, C); `ctx.batch` and `ctx.time` tell B and T.
    """

    registry: ClassVar[Registry] = LAYERS
    adds_positions: ClassVar[bool] = False  # to its input: `positions=` puts another in its place

    def params(self) -> dict[str, Param]:
        """Return this layer's own parameters by name."""
        return {}

    def children(self) -> dict[str, "Layer"]:
        """Return the layers inside this one; an empty name adds nothing to dotted names."""
        return {}

    @abstractmethod
    def forward(self, p: Tree, x: np.ndarray, ctx: Context) -> tuple[np.ndarray, Any]:
        """Return the output (B·T, C') and the cache that `backward` needs."""

    @abstractmethod
    def backward(self, p: Tree, g: Tree, dy: np.ndarray, cache: Any, ctx: Context) -> np.ndarray:
        """Add the parameters' gradients to those in `g` and return the gradient of the input.

        Add to `ctx.gradient(g[name])`, not to `g[name]`, which holds the last step's; or call
        `ctx.add_product(a, b, g[name])`. A gradient that is written neither way is an error.
        """

    def flops(self, batch: int, time: int) -> int:
        """Return the floating-point operations of one forward pass, children included."""
        return sum(child.flops(batch, time) for child in self.children().values())
