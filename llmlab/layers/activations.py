"""Activations: element-wise functions between two products, registered by name."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from llmlab.layers.base import ACTIVATIONS
from llmlab.registry import Registry, Spec
from llmlab.workspace import Context


class Activation(ABC):
    """An element-wise function with its derivative.

    Both passes work in place: the layer that calls them needs neither x nor dy any more.
    """

    registry: ClassVar[Registry] = ACTIVATIONS

    @abstractmethod
    def forward(self, x: np.ndarray, ctx: Context) -> tuple[np.ndarray, Any]:
        """Turn x into the output; return it and the cache."""

    @abstractmethod
    def backward(self, dy: np.ndarray, cache: Any, ctx: Context) -> np.ndarray:
        """Turn dy into the gradient of the input, and return it."""


def activation(spec: Activation | Spec) -> Activation:
    """Return the activation that `spec` names, or `spec` itself."""
    return spec if isinstance(spec, Activation) else ACTIVATIONS.build(spec, "activation")


@ACTIVATIONS.register("relu")
class ReLU(Activation):
    """max(x, 0)."""

    def forward(self, x, ctx):
        """Turn x into max(x, 0)."""
        return ctx.kernels.relu(ctx, x)

    def backward(self, dy, cache, ctx):
        """Keep dy where x was positive; at 0 the derivative is taken as 0."""
        return ctx.kernels.relu_backward(ctx, dy, cache)


class _Sloped(Activation):
    """An activation whose forward pass finds its derivative on the way: that is the cache."""

    kernel: ClassVar[str]  # the function of the kernel set

    def forward(self, x, ctx):
        """Turn x into the activation; the cache is its derivative."""
        return getattr(ctx.kernels, self.kernel)(ctx, x)

    def backward(self, dy, cache, ctx):
        """Multiply dy by the derivative."""
        return ctx.kernels.multiply_slope(ctx, dy, cache)


@ACTIVATIONS.register("gelu_tanh")
class GELUTanh(_Sloped):
    """x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), GPT-2's form."""

    kernel = "gelu_tanh"


@ACTIVATIONS.register("gelu")
class GELU(_Sloped):
    """x · Φ(x) with the normal distribution Φ, the exact form (arXiv:1606.08415)."""

    kernel = "gelu"


@ACTIVATIONS.register("silu")
class SiLU(_Sloped):
    """x / (1 + exp(−x)), also called swish (arXiv:1702.03118)."""

    kernel = "silu"


@ACTIVATIONS.register("relu2")
class ReLUSquared(_Sloped):
    """max(x, 0)² (Primer, So et al. 2021, arXiv:2109.08668)."""

    kernel = "relu_squared"
