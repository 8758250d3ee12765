"""What a model is worth, and what it could be worth on its data."""

from llmlab.measure.baselines import Baseline, baselines
from llmlab.measure.compression import compressed_bits
from llmlab.measure.entropy import entropy_floor
from llmlab.measure.intervals import wilson
from llmlab.measure.losses import Evaluator, Losses
from llmlab.measure.ngrams import ngram_losses

__all__ = [
    "Baseline",
    "Evaluator",
    "Losses",
    "baselines",
    "compressed_bits",
    "entropy_floor",
    "ngram_losses",
    "wilson",
]
