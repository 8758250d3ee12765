"""Short samples side by side in one row, so that little of a batch is padding."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return rows of sample numbers whose lengths add up to `capacity` or less.

    Best fit, longest first: each sample goes where it leaves the least room (best-fit
    decreasing, Johnson 1973). Rows, and the samples within one, are ordered by the first
    sample's number.
    """
    rows: list[list[int]] = []
    # (room, row), sorted; rows that are full leave the list.
    open_rows: list[tuple[int, int]] = []
    for sample in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        length = lengths[sample]
        at = bisect_left(open_rows, (length, -1))
        if at < len(open_rows):
            room, row = open_rows.pop(at)
            rows[row].append(sample)
        else:
            room, row = capacity, len(rows)
            rows.append([sample])
        if room > length:
            insort(open_rows, (room - length, row))
    return sorted(sorted(row) for row in rows)
