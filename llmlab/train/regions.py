"""Which parts of a flat vector each rank holds, and how they get from one to another."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Region = list[slice]


class Move:
    """The way from where a vector's parts are to where they are wanted; made once, used often.

    `source` is what each rank holds, `target` what each shall hold afterwards.
    """

    def __init__(self, ranks: Any, source: Sequence[Region], target: Sequence[Region]):
        own = ranks.rank
        self._comm = ranks.comm
        self._out = [meet(source[own], wanted) for wanted in target]
        self._in = [meet(held, target[own]) for held in source]
        self._out[own] = self._in[own] = []
        self._idle = all(
            not meet(held, wanted)
            for giver, held in enumerate(source)
            for taker, wanted in enumerate(target)
            if giver != taker
        )

    def __call__(self, flat: np.ndarray) -> None:
        """Send what others want of `flat` and receive what this rank wants; all ranks together."""
        if self._idle:
            return
        packed = [flat[at] for region in self._out for at in region]
        sent = np.concatenate(packed) if packed else np.empty(0, flat.dtype)
        sizes = [length(region) for region in self._in]
        got = np.empty(sum(sizes), flat.dtype)
        out = [length(region) for region in self._out]
        self._comm.Alltoallv([sent, out], [got, sizes])
        begin = 0
        for at in (at for region in self._in for at in region):
            flat[at] = got[begin : begin + at.stop - at.start]
            begin += at.stop - at.start


class Share:
    """Every rank gives what it holds to all others."""

    def __init__(self, ranks: Any, held: Sequence[Region]):
        self._comm, self._own, self._held = ranks.comm, ranks.rank, held
        self._sizes = [length(region) for region in held]
        # Spans that follow each other need no packing: they arrive where they belong.
        ends = [0, *(int(end) for end in np.cumsum(self._sizes))]
        pairs = zip(held, ends, ends[1:], strict=False)
        self._spans = all(
            begin == end or list(region) == [slice(begin, end)] for region, begin, end in pairs
        )

    def __call__(self, flat: np.ndarray) -> None:
        """Fill `flat` with what the ranks hold; all ranks together."""
        if self._spans:
            from mpi4py import MPI

            self._comm.Allgatherv(MPI.IN_PLACE, [flat[: sum(self._sizes)], self._sizes])
            return
        own = [flat[at] for at in self._held[self._own]]
        sent = np.concatenate(own) if own else np.empty(0, flat.dtype)
        got = np.empty(sum(self._sizes), flat.dtype)
        self._comm.Allgatherv(sent, [got, self._sizes])
        begin = 0
        for at in (at for region in self._held for at in region):
            flat[at] = got[begin : begin + at.stop - at.start]
            begin += at.stop - at.start


def length(region: Region) -> int:
    """Return the number of items."""
    return sum(at.stop - at.start for at in region)


def meet(a: Region, b: Region) -> Region:
    """Return what two regions have in common, in order."""
    found = []
    for one in a:
        for other in b:
            begin, end = max(one.start, other.start), min(one.stop, other.stop)
            if begin < end:
                found.append(slice(begin, end))
    return sorted(found, key=lambda at: at.start)
