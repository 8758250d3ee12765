"""Initial values of parameters, by name: `init: he`, `init: {type: normal, std: 0.02}`."""

from math import sqrt
from typing import Annotated

import numpy as np

from llmlab.errors import ConfigError
from llmlab.layers.base import INITIALISATIONS
from llmlab.params import Init
from llmlab.registry import Spec

Initialisation = Annotated[Init, INITIALISATIONS]
InitSpec = Initialisation | Spec


def initialisation(spec: InitSpec) -> Init:
    """Return the function (generator, shape) → array that `spec` names, or `spec` itself."""
    if callable(spec):
        return spec
    return INITIALISATIONS.build(spec, "init")


@INITIALISATIONS.register("normal")
def normal(std: float = 0.02) -> Init:
    """Draw from a normal distribution of mean 0."""
    if not std >= 0:
        raise ConfigError(f"std={std}: must not be negative")
    return lambda rng, shape: rng.standard_normal(shape) * std


@INITIALISATIONS.register("residual_normal")
def residual_normal(std: float = 0.02, num_blocks: int = 1) -> Init:
    """Draw from N(0, std² / (2 · num_blocks)), for what is added to the residual stream.

    Each block adds twice, so the sum keeps its size (GPT-2, Radford et al. 2019, §2.3).
    """
    if num_blocks < 1:
        raise ConfigError(f"num_blocks={num_blocks}: must be at least 1")
    return normal(std / sqrt(2 * num_blocks))


@INITIALISATIONS.register("he")
def he() -> Init:
    """Draw from N(0, 2 / d_in), for ReLU (He et al. 2015, arXiv:1502.01852)."""
    return lambda rng, shape: rng.standard_normal(shape) * sqrt(2 / shape[0])


@INITIALISATIONS.register("xavier")
def xavier() -> Init:
    """Draw from N(0, 2 / (d_in + d_out)) (Glorot and Bengio 2010)."""
    return lambda rng, shape: rng.standard_normal(shape) * sqrt(2 / (shape[0] + shape[-1]))


@INITIALISATIONS.register("zeros")
def zeros() -> Init:
    """Start at 0."""
    return lambda rng, shape: np.zeros(shape)


@INITIALISATIONS.register("ones")
def ones() -> Init:
    """Start at 1."""
    return lambda rng, shape: np.ones(shape)
