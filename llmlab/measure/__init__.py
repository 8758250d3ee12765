"""What a model is worth, and what it could be worth on its data."""

from llmlab.measure.floors import memorisation_floor

__all__ = ["memorisation_floor"]
