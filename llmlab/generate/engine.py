"""Decoding with a cache: the prompt in one pass, then a token at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmlab import kernels as kernel_sets
from llmlab.generate.kv_cache import KVCache
from llmlab.generate.samplers import Greedy, Sampler
from llmlab.layers import Layer
from llmlab.params import Arena
from llmlab.workspace import Context


@dataclass
class Reply:
    """What one prompt was continued with.

    Attributes
    ----------
    ids
        The new tokens, without the stop token.
    reason
        Why it ended: "stop" (a stop token), "length" (max_new_tokens) or "context" (the
        model's context is full).
    """

    ids: list[int] = field(default_factory=list)
    reason: str = "length"


class Engine:
    """Continue token ids with a trained stack.

    Parameters
    ----------
    stack, params
        The network and its parameters.
    max_seq_len
        Greatest number of tokens that the network can be given.
    """

    def __init__(self, stack: Layer, params: Arena, max_seq_len: int, kernels: Any = "numpy"):
        self.stack, self.params, self.max_seq_len = stack, params, max_seq_len
        loaded = kernel_sets.load(kernels) if isinstance(kernels, str) else kernels
        self._ctx = Context(loaded, params.flat.dtype)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int | None = None,
        stop_ids: Iterable[int] = (),
        sampler: Sampler | None = None,
        rng: np.random.Generator | None = None,
    ) -> list[Reply]:
        """Continue all prompts in one batch.

        Parameters
        ----------
        prompts
            One to `max_seq_len` ids each.
        max_new_tokens
            None: until a stop token or the end of the context.
        stop_ids
            Tokens that end a reply.
        sampler, rng
            Greedy if not given; `rng` is for samplers that draw.

        Raises
        ------
        ValueError
            If a prompt is empty or longer than the context.
        """
        replies = [Reply() for _ in prompts]
        for row, token in self._decode(prompts, replies, max_new_tokens, stop_ids, sampler, rng):
            replies[row].ids.append(token)
        return replies

    def stream(self, prompt: Sequence[int], **options: Any) -> Iterator[int]:
        """Yield the tokens that `generate` would return for one prompt, as they come."""
        options = {"max_new_tokens": None, "stop_ids": (), "sampler": None, "rng": None} | options
        for _, token in self._decode([prompt], [Reply()], **options):
            yield token

    def _decode(
        self,
        prompts: Sequence[Sequence[int]],
        replies: list[Reply],
        max_new_tokens: int | None,
        stop_ids: Iterable[int],
        sampler: Sampler | None,
        rng: np.random.Generator | None,
    ) -> Iterator[tuple[int, int]]:
        """Yield (row, token); note in `replies` why each row ended."""
        sampler, stops = sampler or Greedy(), frozenset(stop_ids)
        limit = self.max_seq_len if max_new_tokens is None else max_new_tokens
        lengths = np.array([len(prompt) for prompt in prompts], np.intp)
        if not len(prompts) or limit == 0:
            return
        if lengths.min() < 1 or lengths.max() > self.max_seq_len:
            raise ValueError(f"a prompt must have 1 to {self.max_seq_len} tokens")
        tokens = np.zeros((len(prompts), lengths.max()), np.intp)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
        capacity = min(self.max_seq_len, int(lengths.max()) + limit)
        cache = KVCache(self.stack, len(prompts), capacity, self._ctx.dtype)
        logits = self._forward(tokens, cache, lengths)
        alive = np.ones(len(prompts), bool)
        for count in range(1, limit + 1):
            chosen = sampler.choose(logits, rng)
            for row in np.flatnonzero(alive):
                token = int(chosen[row])
                if token in stops:
                    alive[row], replies[row].reason = False, "stop"
                    continue
                yield int(row), token
                if cache.lengths[row] == self.max_seq_len:
                    alive[row], replies[row].reason = False, "context"
            if count == limit or not alive.any():
                return
            # Rows that ended go on with any token: their place in the batch costs nothing
            # extra, and nobody looks at them.
            cache.truncate(np.full(len(prompts), capacity - 1))
            logits = self._forward(chosen[:, None], cache, np.ones(len(prompts), np.intp))

    def _forward(self, tokens: np.ndarray, cache: KVCache, counts: np.ndarray) -> np.ndarray:
        """Return the logits (B, V) after each row's last real token."""
        batch, time = tokens.shape
        cache.prepare(time)
        rows = np.arange(batch) * time + counts - 1 if time > 1 else None
        self._ctx.begin(batch, time, kv_cache=cache, rows=rows)
        flat = np.ascontiguousarray(tokens, np.intp).reshape(-1)
        logits, _ = self.stack.forward(self.params.tree, flat, self._ctx)
        cache.advance(counts)
        return logits
