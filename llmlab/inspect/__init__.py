"""Look inside a network: what it computes between its token ids and its logits.

Everything here asks a `Network` through its listeners; parameters are never changed. T tokens,
C values a token, H heads, V entries of the vocabulary.
"""

from llmlab.inspect.ablation import Part, ablated, effects, parts_of, token_losses
from llmlab.inspect.attribution import Attribution, attribute
from llmlab.inspect.dynamics import Moment, likeness, moment
from llmlab.inspect.heads import head_scores, repeated_tokens
from llmlab.inspect.lens import lens, log_softmax, surprise, top_tokens
from llmlab.inspect.patching import patch_effects
from llmlab.inspect.similarity import effective_rank, linear_cka, neighbours, sparsity
from llmlab.inspect.trace import Record, Trace, trace

__all__ = [
    "Attribution",
    "Moment",
    "Part",
    "Record",
    "Trace",
    "ablated",
    "attribute",
    "effective_rank",
    "effects",
    "head_scores",
    "lens",
    "likeness",
    "linear_cka",
    "log_softmax",
    "moment",
    "neighbours",
    "parts_of",
    "patch_effects",
    "repeated_tokens",
    "sparsity",
    "surprise",
    "token_losses",
    "top_tokens",
    "trace",
]
