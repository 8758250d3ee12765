"""Generation: token ids in, token ids out. Text is the tokenizer's affair."""

from llmlab.generate.decoding import Decoding, Reply
from llmlab.generate.drafts import Draft, NgramDraft, Tally
from llmlab.generate.engine import Engine
from llmlab.generate.kv_cache import KVCache
from llmlab.generate.network_draft import NetworkDraft
from llmlab.generate.samplers import SAMPLERS, Rows, Sampler, Search
from llmlab.generate.scoring import log_probabilities

__all__ = [
    "SAMPLERS",
    "Decoding",
    "Draft",
    "Engine",
    "KVCache",
    "NetworkDraft",
    "NgramDraft",
    "Reply",
    "Rows",
    "Sampler",
    "Search",
    "Tally",
    "log_probabilities",
]
