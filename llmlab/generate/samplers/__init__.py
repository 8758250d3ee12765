"""How the next token is chosen from the logits: one file each, chosen by `type:`."""

from llmlab.generate.samplers.base import SAMPLERS, Rows, Sampler, Search
from llmlab.registry import load_package

load_package(__name__, __path__)

__all__ = ["SAMPLERS", "Rows", "Sampler", "Search"]
