"""Normalisations of each row."""

from llmlab.errors import ConfigError
from llmlab.layers.base import LAYERS, Layer
from llmlab.layers.initialisations import initialisation
from llmlab.params import Param


@LAYERS.register("layer_norm")
class LayerNorm(Layer):
    """y = weight · (x − mean) / √(variance + eps) + bias (Ba et al. 2016, arXiv:1607.06450).

    Mean and variance are over the C values of a row; the variance is the biased one.
    """

    def __init__(self, embedding_dim: int, eps: float = 1e-5, bias: bool = True):
        self.embedding_dim, self.eps, self.bias = embedding_dim, eps, bias
        if not eps > 0:
            raise ConfigError(f"eps={eps}: must be positive")

    def params(self):
        """Return weight (C,) of ones and bias (C,) of zeros."""
        params = {"weight": Param((self.embedding_dim,), initialisation("ones"), "undecayed")}
        if self.bias:
            params["bias"] = Param((self.embedding_dim,), initialisation("zeros"), "undecayed")
        return params

    def forward(self, p, x, ctx):
        """Return the normalised rows; the cache is (x − mean) / deviation and 1 / deviation."""
        return ctx.kernels.layer_norm(ctx, x, p["weight"], p.get("bias"), self.eps)

    def backward(self, p, g, dy, cache, ctx):
        """Return dx through mean and variance."""
        return ctx.kernels.layer_norm_backward(
            ctx, dy, p["weight"], cache, g["weight"], g.get("bias")
        )


@LAYERS.register("rms_norm")
class RMSNorm(Layer):
    """y = weight · x / √(mean(x²) + eps) (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, embedding_dim: int, eps: float = 1e-5):
        self.embedding_dim, self.eps = embedding_dim, eps
        if not eps > 0:
            raise ConfigError(f"eps={eps}: must be positive")

    def params(self):
        """Return weight (C,) of ones."""
        return {"weight": Param((self.embedding_dim,), initialisation("ones"), "undecayed")}

    def forward(self, p, x, ctx):
        """Return the normalised rows; the cache is x / √(…) and 1 / √(…)."""
        return ctx.kernels.rms_norm(ctx, x, p["weight"], self.eps)

    def backward(self, p, g, dy, cache, ctx):
        """Return dx through the mean square."""
        return ctx.kernels.rms_norm_backward(ctx, dy, p["weight"], cache, g["weight"])
