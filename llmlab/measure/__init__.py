"""What a model is worth, and what it could be worth on its data."""

from llmlab.measure.floors import memorisation_floor
from llmlab.measure.losses import Evaluator, Losses

__all__ = ["Evaluator", "Losses", "memorisation_floor"]
