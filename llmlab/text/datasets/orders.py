"""Orders of many things that need no memory, so that any place in them can be entered."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llmlab.streams import stream

_BLOCK = 4096
_ROUNDS = 4

Order = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def in_turn(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices themselves."""
    return indices


def drawn(high: int, seed: int, epoch: int) -> Order:
    """Return a function from indices to independent uniform numbers below `high`."""
    blocks: dict[int, NDArray[np.int64]] = {}

    def order(indices: NDArray[np.int64]) -> NDArray[np.int64]:
        found = np.empty(len(indices), dtype=np.int64)
        for block in np.unique(indices // _BLOCK).tolist():
            if block not in blocks:
                blocks.clear()
                rng = stream(seed, "data", epoch, block)
                blocks[block] = rng.integers(0, high, _BLOCK)
            mine = indices // _BLOCK == block
            found[mine] = blocks[block][indices[mine] % _BLOCK]
        return found

    return order


def shuffled(count: int, seed: int, epoch: int) -> Order:
    """Return a function that permutes the indices below `count`.

    A Feistel network over the next power of four; what falls outside goes through it again
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    low = np.uint64(2**half - 1)
    shift = np.uint64(half)
    keys = stream(seed, "data", epoch).integers(0, 2**63, _ROUNDS, dtype=np.uint64)

    def once(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> shift, x & low
        for key in keys:
            mixed = (right + key) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(32)) & low)
        return (left << shift) | right

    def order(indices: NDArray[np.int64]) -> NDArray[np.int64]:
        x = once(indices.astype(np.uint64))
        while (outside := x >= count).any():
            x[outside] = once(x[outside])
        return x.astype(np.int64)

    return order
