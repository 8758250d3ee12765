"""Keys and values of the tokens so far, so that a new token costs one row."""

from typing import Any

import numpy as np

from llmlab.layers import Layer
from llmlab.params import walk_layers

SLACK = 16  # tokens that `truncate` can take back from a layer that looks at a window alone


class KVCache:
    """Preallocated keys and values of every attention layer, each row with its own length.

    Rows may have prompts of different lengths, padded on the right: what a row wrote past
    its length is masked, and overwritten by its next token. A layer with a sliding window has
    a ring of `window` + `SLACK` places, so that its memory doesn't grow with the text.

    Parameters
    ----------
    stack
        The network; layers with a method `kv_shape` get a place, a ring if their `window`
        isn't None.
    batch, capacity
        Rows, and tokens for each of them.
    """

    def __init__(self, stack: Layer, batch: int, capacity: int, dtype: np.typing.DTypeLike):
        self.capacity = capacity
        self.lengths = np.zeros(batch, np.intp)  # tokens of each row so far
        self._longest = np.zeros(batch, np.intp)  # that each row ever was
        self._dtype = np.dtype(dtype)
        self._keys: dict[Layer, np.ndarray] = {}  # transposed: (B, K, D, places)
        self._values: dict[Layer, np.ndarray] = {}  # (B, K, places, D)
        self._windows: dict[Layer, int] = {}
        for name, layer in walk_layers(stack):
            if hasattr(layer, "kv_shape"):
                if layer in self._keys:
                    raise ValueError(
                        f"{name}: an attention layer that is there under another name, too, would "
                        "overwrite its own keys and values; build it twice"
                    )
                heads, d = layer.kv_shape()
                window = getattr(layer, "window", None)
                places = capacity
                if window is not None:
                    places = min(capacity, window + SLACK)
                    self._windows[layer] = window
                # Zeros, not garbage: 0 times a masked value must not be NaN.
                self._keys[layer] = np.zeros((batch, heads, d, places), dtype)
                self._values[layer] = np.zeros((batch, heads, places, d), dtype)
        self._even, self.is_empty = True, True
        self._stop = self._time = 0
        self._masks: dict[int | None, np.ndarray | None] = {}
        self._waiting: list[tuple[Any, np.ndarray, np.ndarray]] = []

    def prepare(self, time: int) -> None:
        """Announce a pass over `time` new tokens a row."""
        first = int(self.lengths[0]) if len(self.lengths) else 0
        self._even = bool((self.lengths == first).all())
        self._time, self._stop = time, int(self.lengths.max(initial=0)) + time
        if self._stop > self.capacity:
            raise ValueError(f"{self._stop} tokens in a cache for {self.capacity}")
        self.is_empty = self._stop == time
        self._masks = {}
        if not self.is_empty:
            for window in {None, *self._windows.values()}:
                self._masks[window] = self._mask(window)

    def store(self, layer: Any, k: np.ndarray, v: np.ndarray) -> None:
        """Store a layer's new keys and values (B, K, T, D)."""
        keys, values, time = self._keys[layer], self._values[layer], k.shape[2]
        if layer in self._windows and time == 1:
            at = self.lengths % keys.shape[-1]
            rows = np.arange(len(at))
            keys[rows, :, :, at] = k[:, :, 0]
            values[rows, :, at] = v[:, :, 0]
        elif layer in self._windows:
            # Which of them are real is known at the end of the pass, and only real ones may
            # push older ones out.
            self._waiting.append((layer, k, v))
        elif self._even:
            part = slice(self._stop - time, self._stop)
            np.copyto(keys[..., part], k.swapaxes(-1, -2))
            np.copyto(values[:, :, part], v)
        else:
            for row, start in enumerate(self.lengths):
                part = slice(start, start + time)
                keys[row, ..., part] = k[row].swapaxes(-1, -2)
                values[row, :, part] = v[row]

    def extend(self, layer: Any, k: np.ndarray, v: np.ndarray) -> tuple[Any, Any, Any]:
        """Store a layer's new keys and values (B, K, T, D) and return all that it may look at.

        Returns
        -------
        keys (B, K, D, L), values (B, K, L, D)
            Of the longest row's L tokens; of a window its places, then the new tokens.
        mask
            0 or −inf for the last keys, broadcast to (B, K, G, T, ·), or None.
        """
        self.store(layer, k, v)
        keys, values, mask = self._keys[layer], self._values[layer], None
        window = self._windows.get(layer)
        mask = self._masks[window]
        if window is None:
            return keys[..., : self._stop], values[:, :, : self._stop], mask
        used = self._used(window)
        keys, values = keys[..., :used], values[:, :, :used]
        if k.shape[2] > 1:
            keys = np.concatenate((keys, k.swapaxes(-1, -2)), -1)
            values = np.concatenate((values, v), 2)
        return keys, values, mask

    def offsets(self, layer: Any) -> np.ndarray:
        """Return how far each key that `extend` returns is from the row's first new token.

        (B, L) whole numbers, negative for what came before.
        """
        window = self._windows.get(layer)
        if window is None:
            return np.arange(self._stop) - self.lengths[:, None]
        return self._positions(window) - self.lengths[:, None]

    def advance(self, counts: np.ndarray | int) -> None:
        """Count the tokens of the last pass that were real, (B,) or one number for all."""
        for layer, k, v in self._waiting:
            keys, values = self._keys[layer], self._values[layer]
            places = keys.shape[-1]
            for row, start in enumerate(self.lengths):
                count = int(np.broadcast_to(counts, self.lengths.shape)[row])
                new = np.arange(max(0, count - places), count)
                at = (start + new) % places
                keys[row, :, :, at] = k[row][:, new].transpose(1, 0, 2)
                values[row, :, at] = v[row][:, new].transpose(1, 0, 2)
        self._waiting = []
        self.lengths = self.lengths + counts
        self._longest = np.maximum(self._longest, self.lengths)

    def truncate(self, lengths: np.ndarray) -> None:
        """Forget all but the first `lengths` (B,) tokens of each row.

        A ValueError if a window would need tokens again that were pushed out of it: more than
        `SLACK` tokens before the row's end.
        """
        shorter = np.minimum(self.lengths, lengths)
        for layer in self._windows:
            full = self._longest > self._keys[layer].shape[-1]
            lost = full & (shorter > 0) & (self._longest - shorter > SLACK)
            if lost.any():
                raise ValueError(f"a window can't go back more than {SLACK} tokens")
        self.lengths = shorter
        self._longest = np.where(shorter > 0, self._longest, 0)

    def select(self, rows: np.ndarray) -> None:
        """Keep, reorder or repeat rows: row i becomes the old row rows[i], rows (B,)."""
        if np.array_equal(rows, np.arange(len(self.lengths))):
            return  # often, once the beams of a search have settled
        self.lengths, self._longest = self.lengths[rows], self._longest[rows]
        for store in (self._keys, self._values):
            for layer in store:
                store[layer] = store[layer][rows]

    def replace(self, rows: np.ndarray, part: "KVCache") -> None:
        """Put the rows of another cache of the same network and capacity in place of `rows`."""
        self.lengths, self._longest = self.lengths.copy(), self._longest.copy()
        self.lengths[rows], self._longest[rows] = part.lengths, part._longest
        for own, other in ((self._keys, part._keys), (self._values, part._values)):
            for layer in own:
                own[layer][rows] = other[layer]

    def _used(self, window: int) -> int:
        """Return how many places of a ring hold something; one new token is already there."""
        before = self._stop if self._time == 1 else self._stop - self._time
        return min(self.capacity, window + SLACK, before)

    def _positions(self, window: int) -> np.ndarray:
        """Return the positions (B, L) in the text of what `extend` returns."""
        places = min(self.capacity, window + SLACK)
        last = self.lengths[:, None] - (self._time > 1)
        held = last - (last - np.arange(self._used(window))) % places
        if self._time == 1:
            return held
        return np.concatenate((held, self.lengths[:, None] + np.arange(self._time)), 1)

    def _mask(self, window: int | None) -> np.ndarray | None:
        """Return what a pass over the announced tokens may not look at."""
        time = self._time
        if window is None and self._even:
            if time == 1:
                return None
            return np.triu(np.full((time, time), -np.inf, self._dtype), 1)
        rows = self.lengths[:1] if self._even else self.lengths
        query = rows[:, None] + np.arange(time)
        if window is None:
            hidden = np.arange(self._stop) > query[:, :, None]
        else:
            key = self._positions(window)[: len(rows), None]
            hidden = (key < 0) | (key > query[:, :, None]) | (key <= query[:, :, None] - window)
        mask = np.where(hidden, -np.inf, 0.0).astype(self._dtype)
        return mask[:, None, None]
