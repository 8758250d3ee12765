"""A batch of token sequences that is being continued: the cache, and passes over new tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llmlab.generate.kv_cache import KVCache
from llmlab.network import Network


@dataclass
class Reply:
    """What one prompt was continued with."""

    ids: list[int] = field(default_factory=list)  # the new tokens, without the stop token
    # Why it ended: "stop" (a stop token, or the caller said so), "length" (max_new_tokens) or
    # "context" (the model's context is full).
    reason: str = "length"
    refills: int = 0  # how often the context was full and began again with its last half


def kept_of(max_seq_len: int) -> int:
    """Return how many of the last tokens stay in view when a context is full: half of it."""
    return max(1, max_seq_len // 2)


def in_view(length: int, max_seq_len: int) -> int:
    """Return how many of a text's last tokens a network looks at that goes on beyond its context.

    A text that fits is in view as a whole. The first token too many leaves the last half of
    the context, that token included; then it fills up again.
    """
    if length <= max_seq_len:
        return length
    kept = kept_of(max_seq_len)
    return kept + (length - max_seq_len - 1) % (max_seq_len - kept + 1)


class Decoding:
    """The state of a batch between two tokens."""

    def __init__(
        self,
        network: Network,  # what continues them
        prompts: Sequence[Sequence[int]],  # sequences of one to `max_seq_len` ids
        limit: int,  # greatest number of tokens that a prompt will be continued with
        max_seq_len: int,  # greatest number of tokens that the network can be given
        # Whether a row whose context is full goes on: its part of the cache is filled again from
        # the last half of its tokens (`in_view`), which then stand at the first positions.
        refill: bool = False,
    ):
        self._network = network
        self.prompts, self.limit, self.max_seq_len = list(prompts), limit, max_seq_len
        lengths = np.array([len(prompt) for prompt in prompts], np.intp)
        if lengths.min() < 1 or lengths.max() > max_seq_len:
            raise ValueError(f"a prompt must have 1 to {max_seq_len} tokens")
        capacity = min(max_seq_len, int(lengths.max()) + limit)
        self._cache = self._new_cache(len(prompts), capacity)
        self._texts = [list(prompt) for prompt in prompts] if refill else None
        self.refills = np.zeros(len(prompts), np.intp)  # how often each row was filled again
        # Scores (B, V) of each row's next token; they live until the next `feed`.
        self.logits = self._forward(self._cache, _padded(prompts), lengths)

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens in view of each row, (B,)."""
        return self._cache.lengths

    @property
    def room(self) -> int:
        """How many tokens more every row can be given."""
        return self._cache.capacity - int(self._cache.lengths.max())

    def feed(self, tokens: np.ndarray, alive: Sequence[int] | None = None) -> np.ndarray:
        """Append a token to each row (B,) and return the new logits.

        `alive` are the rows that go on, all by default: the others ended, and what is fed to
        them and what comes of it is of no use to anybody.
        """
        going = range(len(tokens)) if alive is None else alive
        full: list[int] = []
        filled = None
        if self._texts is not None:
            for text, token in zip(self._texts, tokens, strict=True):
                text.append(int(token))
            if full := [row for row in going if self.is_full(row)]:
                kept = kept_of(self.max_seq_len)
                filled = self.refill(full, [self._texts[row][-kept:] for row in full])
        if filled is not None and len(full) == len(tokens):
            self.logits = filled
            return filled
        if len(going) < len(tokens):
            self.hold()
        counts = np.ones(len(tokens), np.intp)
        counts[full] = 0
        self.logits = self._forward(self._cache, tokens[:, None], counts if full else 1)
        if filled is not None:
            self.logits = self.logits.copy()
            self.logits[full] = filled
        return self.logits

    def refill(self, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Let rows hold these texts instead, and return the logits (rows, V) after them."""
        lengths = np.array([len(text) for text in texts], np.intp)
        part = self._new_cache(len(rows), self._cache.capacity)
        logits = self._forward(part, _padded(texts), lengths).copy()
        self._cache.replace(np.array(rows), part)
        self.refills[rows] += 1
        return logits

    def look(self, tokens: np.ndarray) -> np.ndarray:
        """Return the logits (B, T, V) after each of T more tokens a row, (B, T).

        They don't count before `keep` says how many of them do. No row may come to have more
        than `max_seq_len` tokens.
        """
        self._cache.prepare(tokens.shape[1])
        return self._network.forward(tokens, kv_cache=self._cache)

    def keep(self, counts: np.ndarray) -> None:
        """Count the first `counts` (B,) of the tokens that `look` got."""
        self._cache.advance(counts)

    def shorten(self, lengths: np.ndarray) -> None:
        """Forget all but the first `lengths` (B,) tokens in view of each row."""
        self._cache.truncate(lengths)

    def select(self, rows: np.ndarray) -> None:
        """Keep, reorder or repeat rows: row i becomes the old row rows[i]."""
        self._cache.select(rows)
        self.logits, self.refills = self.logits[rows], self.refills[rows]
        if self._texts is not None:
            self._texts = [list(self._texts[row]) for row in rows]

    def is_full(self, row: int) -> bool:
        """Tell whether the network can't be given another token of a row."""
        return self._cache.lengths[row] >= self.max_seq_len

    def hold(self) -> None:
        """Make room for a token in rows that ended: they go on, and nobody looks at them."""
        full = np.full(len(self._cache.lengths), self._cache.capacity - 1)
        self._cache.truncate(full)

    def _new_cache(self, batch: int, capacity: int) -> KVCache:
        return KVCache(self._network.stack, batch, capacity, self._network.ctx.dtype)

    def _forward(self, cache: KVCache, tokens: np.ndarray, counts: np.ndarray | int) -> np.ndarray:
        """Return the logits (B, V) after each row's last real token."""
        batch, time = tokens.shape
        cache.prepare(time)
        rows = np.arange(batch) * time + counts - 1 if time > 1 else None
        logits = self._network.forward(tokens, kv_cache=cache, rows=rows)
        cache.advance(counts)
        return logits.reshape(batch, -1)


def _padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Return rows of ids as one array, (B, longest), zeros behind the shorter ones."""
    tokens = np.zeros((len(rows), max(map(len, rows))), np.intp)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens
