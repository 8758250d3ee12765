"""The layers; importing this package registers all of them.

Shape legend, used everywhere: B batch, T time, C embedding, H heads, D head width,
V vocabulary. Rows between layers are (B·T, C).
"""

from llmlab.layers.activations import Activation
from llmlab.layers.base import ACTIVATIONS, INITIALISATIONS, LAYERS, POSITIONS, Layer
from llmlab.layers.stack import Stack, build_stack
from llmlab.registry import load_package

load_package(__name__, __path__)

__all__ = [
    "ACTIVATIONS",
    "INITIALISATIONS",
    "LAYERS",
    "POSITIONS",
    "Activation",
    "Layer",
    "Stack",
    "build_stack",
]
