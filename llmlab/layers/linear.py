"""Affine maps: the matrix products of every other layer."""

import numpy as np

from llmlab.errors import ConfigError
from llmlab.layers.base import LAYERS, Layer, Tree
from llmlab.layers.initialisations import InitSpec, initialisation
from llmlab.params import Param
from llmlab.workspace import Context


def affine_params(
    d_in: int, d_out: int, bias: bool, init: InitSpec, group: str
) -> dict[str, Param]:
    """Declare a weight (d_in, d_out) and, if wanted, a bias (d_out,) of zeros."""
    params = {"weight": Param((d_in, d_out), initialisation(init), group)}
    if bias:
        params["bias"] = Param((d_out,), initialisation("zeros"), "undecayed")
    return params


def affine(p: Tree, x: np.ndarray, ctx: Context) -> np.ndarray:
    """Return x @ weight + bias."""
    weight = p["weight"]
    y = ctx.empty((len(x), weight.shape[1]))
    ctx.kernels.product(x, weight, y)
    if "bias" in p:
        np.add(y, p["bias"], out=y)
    return y


def affine_backward(p: Tree, g: Tree, dy: np.ndarray, x: np.ndarray, ctx: Context) -> np.ndarray:
    """Return dx = dy @ weightᵀ; add xᵀ @ dy and the sum of dy's rows to the gradients."""
    dx = ctx.empty(x.shape)
    ctx.kernels.product(dy, p["weight"].T, dx)
    ctx.add_product(x.T, dy, g["weight"])
    if "bias" in p:
        ctx.add_product(ctx.ones(len(dy)), dy, g["bias"])
    return dx


@LAYERS.register("linear")
class Linear(Layer):
    """y = x @ weight + bias, with weight (embedding_dim, output_dim)."""

    def __init__(
        self,
        embedding_dim: int,
        output_dim: int | None = None,
        bias: bool = True,
        init: InitSpec = "he",
    ):
        self.d_in = embedding_dim
        self.d_out = embedding_dim if output_dim is None else output_dim
        self.bias, self.init, self.group = bias, initialisation(init), "matrix"
        if self.d_in < 1 or self.d_out < 1:
            raise ConfigError(f"a linear layer of {self.d_in} to {self.d_out}: must be at least 1")

    def params(self):
        """Return weight and bias."""
        return affine_params(self.d_in, self.d_out, self.bias, self.init, self.group)

    def forward(self, p, x, ctx):
        """Return x @ weight + bias; the cache is x."""
        return affine(p, x, ctx), x

    def backward(self, p, g, dy, cache, ctx):
        """Return dy @ weightᵀ."""
        return affine_backward(p, g, dy, cache, ctx)

    def flops(self, batch, time):
        """Two operations for each weight and row."""
        return 2 * batch * time * self.d_in * self.d_out
