"""What watches a training; importing this registers all of it."""

from llmlab.registry import load_package
from llmlab.train.fit import CALLBACKS, Callback

__all__ = ["CALLBACKS", "Callback"]

load_package(__name__, __path__)
