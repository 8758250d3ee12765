"""A batch of token sequences that is being continued: the cache, and passes over new tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llmlab.generate.kv_cache import KVCache
from llmlab.network import Network


@dataclass
class Reply:
    """What one prompt was continued with.

    Attributes
    ----------
    ids
        The new tokens, without the stop token.
    reason
        Why it ended: "stop" (a stop token, or the caller said so), "length" (max_new_tokens)
        or "context" (the model's context is full).
    """

    ids: list[int] = field(default_factory=list)
    reason: str = "length"


class Decoding:
    """The state of a batch between two tokens.

    Parameters
    ----------
    network
        What continues them.
    prompts
        Sequences of one to `max_seq_len` ids.
    limit
        Greatest number of tokens that a prompt will be continued with.
    max_seq_len
        Greatest number of tokens that the network can be given.

    Attributes
    ----------
    logits
        Scores (B, V) of each row's next token; they live until the next `feed`.
    """

    def __init__(
        self, network: Network, prompts: Sequence[Sequence[int]], limit: int, max_seq_len: int
    ):
        self._network = network
        self.prompts, self.limit, self.max_seq_len = list(prompts), limit, max_seq_len
        lengths = np.array([len(prompt) for prompt in prompts], np.intp)
        if lengths.min() < 1 or lengths.max() > max_seq_len:
            raise ValueError(f"a prompt must have 1 to {max_seq_len} tokens")
        tokens = np.zeros((len(prompts), lengths.max()), np.intp)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
        capacity = min(max_seq_len, int(lengths.max()) + limit)
        self._cache = KVCache(network.stack, len(prompts), capacity, network.ctx.dtype)
        self.logits = self._forward(tokens, lengths)

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        """Append a token to each row (B,) and return the new logits."""
        self.logits = self._forward(tokens[:, None], 1)
        return self.logits

    def select(self, rows: np.ndarray) -> None:
        """Keep, reorder or repeat rows: row i becomes the old row rows[i]."""
        self._cache.select(rows)
        self.logits = self.logits[rows]

    def is_full(self, row: int) -> bool:
        """Tell whether the network can't be given another token of a row."""
        return self._cache.lengths[row] >= self.max_seq_len

    def hold(self) -> None:
        """Make room for a token in rows that ended: they go on, and nobody looks at them."""
        full = np.full(len(self._cache.lengths), self._cache.capacity - 1)
        self._cache.truncate(full)

    def _forward(self, tokens: np.ndarray, counts: np.ndarray | int) -> np.ndarray:
        """Return the logits (B, V) after each row's last real token."""
        batch, time = tokens.shape
        cache = self._cache
        cache.prepare(time)
        rows = np.arange(batch) * time + counts - 1 if time > 1 else None
        logits = self._network.forward(tokens, kv_cache=cache, rows=rows)
        cache.advance(counts)
        return logits.reshape(batch, -1)
