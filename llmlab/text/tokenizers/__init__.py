"""Tokenizers, one module each; a new file here is registered by being here."""

from llmlab.registry import load_package
from llmlab.text.tokenizers.base import TOKENIZERS, Tokenizer

load_package(__name__, __path__)

__all__ = ["TOKENIZERS", "Tokenizer"]
