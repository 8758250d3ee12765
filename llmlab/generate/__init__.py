"""Generation: token ids in, token ids out. Text is the tokenizer's affair."""

from llmlab.generate.engine import Engine, Reply
from llmlab.generate.kv_cache import KVCache
from llmlab.generate.samplers import SAMPLERS, Sampler

__all__ = ["SAMPLERS", "Engine", "KVCache", "Reply", "Sampler"]
