"""Keys and values of the tokens so far, so that a new token costs one row."""

from typing import Any

import numpy as np

from llmlab.layers import Layer
from llmlab.params import walk_layers


class KVCache:
    """Preallocated keys and values of every attention layer, each row with its own length.

    Rows may have prompts of different lengths, padded on the right: what a row wrote past
    its length is masked, and overwritten by its next token.

    Parameters
    ----------
    stack
        The network; layers with a method `kv_shape` get a place.
    batch, capacity
        Rows, and tokens for each of them.

    Attributes
    ----------
    lengths
        Tokens of each row so far, (B,).
    """

    def __init__(self, stack: Layer, batch: int, capacity: int, dtype: np.typing.DTypeLike):
        self.capacity = capacity
        self.lengths = np.zeros(batch, np.intp)
        self._dtype = np.dtype(dtype)
        self._keys: dict[Layer, np.ndarray] = {}  # transposed: (B, K, D, capacity)
        self._values: dict[Layer, np.ndarray] = {}  # (B, K, capacity, D)
        for _, layer in walk_layers(stack):
            if hasattr(layer, "kv_shape"):
                heads, d = layer.kv_shape()
                # Zeros, not garbage: 0 times a masked value must not be NaN.
                self._keys[layer] = np.zeros((batch, heads, d, capacity), dtype)
                self._values[layer] = np.zeros((batch, heads, capacity, d), dtype)
        self._even = True
        self._stop = 0
        self._mask: np.ndarray | None = None

    def prepare(self, time: int) -> None:
        """Announce a pass over `time` new tokens a row."""
        first = int(self.lengths[0]) if len(self.lengths) else 0
        self._even = bool((self.lengths == first).all())
        self._stop = int(self.lengths.max(initial=0)) + time
        if self._stop > self.capacity:
            raise ValueError(f"{self._stop} tokens in a cache for {self.capacity}")
        if self._even and time == 1:
            self._mask = None
        elif self._even:
            self._mask = np.triu(np.full((time, time), -np.inf, self._dtype), 1)
        else:
            query = self.lengths[:, None] + np.arange(time)
            hidden = np.arange(self._stop) > query[:, :, None]
            mask = np.where(hidden, -np.inf, 0.0).astype(self._dtype)
            self._mask = mask[:, None, None]

    def extend(self, layer: Any, k: np.ndarray, v: np.ndarray) -> tuple[Any, Any, Any]:
        """Store a layer's new keys and values (B, K, T, D).

        Returns
        -------
        keys (B, K, D, L), values (B, K, L, D)
            Of the longest row's L tokens.
        mask
            0 or −inf for the last keys, broadcast to (B, K, G, T, ·), or None.
        """
        keys, values, time = self._keys[layer], self._values[layer], k.shape[2]
        if self._even:
            part = slice(self._stop - time, self._stop)
            np.copyto(keys[..., part], k.swapaxes(-1, -2))
            np.copyto(values[:, :, part], v)
        else:
            for row, start in enumerate(self.lengths):
                part = slice(start, start + time)
                keys[row, ..., part] = k[row].swapaxes(-1, -2)
                values[row, :, part] = v[row]
        return keys[..., : self._stop], values[:, :, : self._stop], self._mask

    def advance(self, counts: np.ndarray | int) -> None:
        """Count the tokens of the last pass that were real, (B,) or one number for all."""
        self.lengths = self.lengths + counts

    def truncate(self, lengths: np.ndarray) -> None:
        """Forget all but the first `lengths` (B,) tokens of each row."""
        self.lengths = np.minimum(self.lengths, lengths)

    def select(self, rows: np.ndarray) -> None:
        """Keep, reorder or repeat rows: row i becomes the old row rows[i]."""
        self.lengths = self.lengths[rows]
        for store in (self._keys, self._values):
            for layer in store:
                store[layer] = np.ascontiguousarray(store[layer][rows])
