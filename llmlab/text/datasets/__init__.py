"""Datasets, one module each; a new file here is registered by being here."""

from llmlab.registry import load_package
from llmlab.text.datasets.base import DATASETS, Dataset

load_package(__name__, __path__)

__all__ = ["DATASETS", "Dataset"]
