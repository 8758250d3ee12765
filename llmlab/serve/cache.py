"""Keys and values of the texts that are decoded together, each at its own place in time."""

from typing import Any

import numpy as np

from llmlab.layers import Layer
from llmlab.params import walk_layers


class Slots:
    """Keys and values of every attention layer for rows that come and go.

    Every row has room for `capacity` tokens, and a pass looks at all of them, masked: so what
    a row gets doesn't depend on the lengths of others. Rows are packed; who leaves is replaced
    by the last. A layer with a window is masked, too, and keeps the whole text.
    """

    is_empty = False  # for the layers: a pass over one new token each

    def __init__(self, stack: Layer, capacity: int, dtype: np.typing.DTypeLike):
        self.capacity, self._dtype = capacity, np.dtype(dtype)
        self.lengths = np.zeros(0, np.intp)  # tokens of each row so far
        self._shapes: dict[Any, tuple[int, int]] = {}
        self._windows: dict[Any, int | None] = {}
        for _, layer in walk_layers(stack):
            if hasattr(layer, "kv_shape"):
                self._shapes[layer] = layer.kv_shape()
                self._windows[layer] = getattr(layer, "window", None)
        self._keys: dict[Any, np.ndarray] = {}  # (rows or more, K, D, capacity)
        self._values: dict[Any, np.ndarray] = {}  # (rows or more, K, capacity, D)
        self._masks: dict[int | None, np.ndarray] = {}
        self._room = 0

    def add(self) -> int:
        """Return the number of a new row, which is empty."""
        row = len(self.lengths)
        if row == self._room:
            self._resize(max(1, 2 * self._room))
        self.lengths = np.append(self.lengths, 0)
        for store in (self._keys, self._values):
            for array in store.values():
                array[row] = 0  # what is masked is multiplied by 0, and must not be NaN
        return row

    def remove(self, row: int) -> None:
        """Take a row out; the last one gets its number."""
        last = len(self.lengths) - 1
        self.lengths[row] = self.lengths[last]
        if row != last:
            for store in (self._keys, self._values):
                for array in store.values():
                    array[row] = array[last]
        self.lengths = self.lengths[:last].copy()
        if not last:
            self._resize(0)

    def take(self, other: "Slots", row: int) -> int:
        """Add a row with the content of another's `row`, and return its number."""
        new = self.add()
        length = min(self.capacity, other.capacity)
        for layer in self._shapes:
            self._keys[layer][new, ..., :length] = other._keys[layer][row, ..., :length]
            self._values[layer][new, :, :length] = other._values[layer][row, :, :length]
        self.lengths[new] = other.lengths[row]
        return new

    def prompt(self, row: int) -> "Prompt":
        """Return what a pass over the whole prompt of an empty row writes to."""
        return Prompt(self, row)

    def prepare(self) -> None:
        """Announce a pass over one new token of each row."""
        key, now = np.arange(self.capacity), self.lengths[:, None]
        for window in set(self._windows.values()):
            hidden = key > now if window is None else (key > now) | (key <= now - window)
            mask = np.where(hidden, -np.inf, 0.0).astype(self._dtype)
            self._masks[window] = mask[:, None, None, None]

    def extend(self, layer: Any, k: np.ndarray, v: np.ndarray) -> tuple[Any, Any, Any]:
        """Store a layer's new keys and values (B, K, 1, D); return all, and what is hidden."""
        keys, values, count = self._keys[layer], self._values[layer], len(self.lengths)
        rows = np.arange(count)
        keys[rows, :, :, self.lengths] = k[:, :, 0]
        values[rows, :, self.lengths] = v[:, :, 0]
        # (B, K, D, capacity), (B, K, capacity, D), (B, 1, 1, 1, capacity)
        return keys[:count], values[:count], self._masks[self._windows[layer]]

    def offsets(self, layer: Any) -> np.ndarray:
        """Return how far each place is from the row's new token, (B, capacity)."""
        return np.arange(self.capacity) - self.lengths[:, None]

    def advance(self) -> None:
        """Count the tokens of the last pass."""
        self.lengths += 1

    def write(self, row: int, layer: Any, k: np.ndarray, v: np.ndarray) -> None:
        """Store keys and values (1, K, T, D) of a row's first T tokens."""
        time = k.shape[2]
        self._keys[layer][row, ..., :time] = k[0].swapaxes(-1, -2)
        self._values[layer][row, :, :time] = v[0]

    def _resize(self, room: int) -> None:
        kept = min(self._room, room)
        for layer, (heads, d) in self._shapes.items():
            keys = np.zeros((room, heads, d, self.capacity), self._dtype)
            values = np.zeros((room, heads, self.capacity, d), self._dtype)
            if kept:
                keys[:kept], values[:kept] = self._keys[layer][:kept], self._values[layer][:kept]
            self._keys[layer], self._values[layer] = keys, values
        self._room = room


class Prompt:
    """The cache as a pass over a prompt sees it: nothing is before it."""

    is_empty = True

    def __init__(self, slots: Slots, row: int):
        self._slots, self._row = slots, row
        self.lengths = np.zeros(1, np.intp)

    def store(self, layer: Any, k: np.ndarray, v: np.ndarray) -> None:
        """Store a layer's keys and values (1, K, T, D)."""
        self._slots.write(self._row, layer, k, v)
