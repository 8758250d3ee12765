"""Memory and context of one pass through the layers."""

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np

from llmlab.params import ALIGN, aligned

MAX_VIEWS = 8192  # shapes vary with the text; forgetting all of them costs one slow step


class Workspace:
    """Give the same memory at the same place of every step.

    A bump allocator: `empty` hands out the next piece, `reset` starts over. The first step
    of a larger shape gets its pieces from NumPy, and the next reset grows the buffer to what
    was needed, so no size is configured.
    """

    def __init__(self, dtype: np.typing.DTypeLike = np.float32):
        self.dtype = np.dtype(dtype)
        self.peak = 0  # bytes
        self._buffer = np.empty(0, np.uint8)
        self._offset = 0
        self._views: dict[Any, tuple[np.ndarray, int]] = {}
        self._marks: list[int] = []

    def reset(self) -> None:
        """Start a step: everything handed out before may be overwritten."""
        self._offset = 0
        self._marks.clear()
        if self.peak > len(self._buffer) or len(self._views) > MAX_VIEWS:
            self._views.clear()
        if self.peak > len(self._buffer):
            self._buffer = aligned(self.peak, np.uint8)

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        """Return an uninitialised C-ordered array that lives until the next reset."""
        key = (self._offset, shape, dtype)
        known = self._views.get(key)
        if known is None:
            known = self._make(key)
        self._offset = known[1]
        return known[0]

    def _make(self, key: tuple[int, tuple[int, ...], Any]) -> tuple[np.ndarray, int]:
        start, shape, dtype = key
        dtype = self.dtype if dtype is None else np.dtype(dtype)
        size = prod(shape) * dtype.itemsize
        end = start + -(-size // ALIGN) * ALIGN
        self.peak = max(self.peak, end)
        if end > len(self._buffer):
            return self._beyond(shape, dtype), end
        view = self._buffer[start : start + size].view(dtype).reshape(shape)
        self._views[key] = view, end
        return view, end

    def _beyond(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array that the buffer has no room for yet."""
        return np.empty(shape, dtype)

    @property
    def taken(self) -> int:
        """The bytes handed out since the reset and not given back."""
        return self._offset

    def __enter__(self) -> None:
        self._marks.append(self._offset)

    def __exit__(self, *_: object) -> None:
        self._offset = self._marks.pop()


class Context:
    """Everything a layer may know besides its parameters and its input; one for each shard.

    Attributes
    ----------
    batch, time
        B and T; rows between layers are (B·T, C).
    kernels
        The set of memory-bound functions in use, see `llmlab.kernels`.
    rng
        One generator for each row of the batch, or None: then nothing is random and dropout
        is the identity.
    kv_cache, position
        While decoding: keys and values so far, and each row's first position (B,).
    segments, positions
        For packed samples: number of the sample and position in it of each token, (B, T).
    rows
        While decoding: the rows of (B·T) whose logits are wanted, or None for all.
    weights, loss_scale
        While training: weight of each target (B·T,), and one over their sum in the whole step.
        Both are for layers with a loss of their own.
    memo
        Constants that layers keep between steps, such as masks; few and small.
    pass_memo
        What layers share within one pass, such as masks of packed rows.
    fresh, unwanted
        Identities of the gradient views that nothing was added to yet in this step, and of those
        of frozen parameters, which nobody reads.
    """

    def __init__(
        self,
        kernels: Any,
        dtype: np.typing.DTypeLike = np.float32,
        workspace: Workspace | None = None,
    ):
        self.kernels = kernels
        self.workspace = Workspace(dtype) if workspace is None else workspace
        self.dtype = self.workspace.dtype
        self.empty = self.workspace.empty
        self.fresh: set[int] = set()
        self.unwanted: frozenset[int] = frozenset()
        self.memo: dict[Any, np.ndarray] = {}
        self._ones = np.ones(64, self.dtype)
        self._counting = np.arange(64)
        self.begin(0, 0)

    def begin(
        self,
        batch: int,
        time: int,
        *,
        rng: Iterable[np.random.Generator] | None = None,
        segments: np.ndarray | None = None,
        positions: np.ndarray | None = None,
        kv_cache: Any = None,
        rows: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        loss_scale: float = 1.0,
    ) -> None:
        """Start a pass over a (batch, time) block of tokens; the workspace is reset."""
        self.workspace.reset()
        self.batch, self.time = batch, time
        self.rng, self.segments, self.positions = rng, segments, positions
        self.kv_cache, self.rows = kv_cache, rows
        self.weights, self.loss_scale = weights, loss_scale
        self.position = None if kv_cache is None else kv_cache.lengths
        self.losses: list[np.ndarray] = []
        self.pass_memo: dict[Any, np.ndarray] = {}

    def scratch(self) -> Workspace:
        """Return a context manager; what is taken inside it is given back at its end."""
        return self.workspace

    def ones(self, size: int) -> np.ndarray:
        """Return a vector of ones: products with it are the fastest sums of rows."""
        if size > len(self._ones):
            self._ones = np.ones(2 * size, self.dtype)
        return self._ones[:size]

    def shares(self, size: int) -> np.ndarray:
        """Return a vector of 1 / size: products with it are means."""
        known = self.memo.get(("shares", size))
        if known is None:
            known = self.memo["shares", size] = np.full(size, 1 / size, self.dtype)
        return known

    def counting(self, size: int) -> np.ndarray:
        """Return the numbers 0 to size − 1."""
        if size > len(self._counting):
            self._counting = np.arange(2 * size)
        return self._counting[:size]

    def add_loss(self, rows: np.ndarray) -> None:
        """Report an extra loss, one value a row of the batch (B,).

        It is a sum over the row's tokens, each times its weight, like the loss of the targets;
        so shards simply add. The layer differentiates it in its own backward, where it is
        multiplied by `loss_scale`.
        """
        self.losses.append(rows)

    def extra_loss(self) -> float:
        """Return the sum of all extra losses of this pass."""
        return sum(float(rows.sum(dtype=np.float64)) for rows in self.losses)

    def add_product(self, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
        """Add a @ b to the gradient `out`; the step's first addition is a plain write."""
        key = id(out)
        if key in self.fresh:
            self.fresh.discard(key)
            self.kernels.product(a, b, out)
        elif key not in self.unwanted:
            with self.workspace:
                part = self.empty(out.shape)
                self.kernels.product(a, b, part)
                np.add(out, part, out=out)

    def gradient(self, out: np.ndarray) -> np.ndarray:
        """Return the gradient `out` ready to be added to: zeros if nothing was added yet."""
        key = id(out)
        if key in self.fresh:
            self.fresh.discard(key)
            out.fill(0)
        return out

    def wants(self, out: np.ndarray) -> bool:
        """Tell whether the gradient `out` is needed; a frozen parameter's isn't."""
        return id(out) not in self.unwanted
