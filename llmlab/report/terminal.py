"""Small charts of characters."""

import sys
from collections.abc import Sequence
from math import isfinite

_MARKS, _PLAIN = "├─●┤", "|-o|"  # low end, line, mean, high end
_WIDTH = 40


def shown_by(encoding: str | None, marks: str, plain: str) -> str:
    """Return `marks` if the terminal's encoding, by default stdout's, has them, else `plain`."""
    try:
        marks.encode(encoding or sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return plain
    return marks


def interval_lines(
    rows: Sequence[tuple[str, float, float, float]], encoding: str | None = None
) -> list[str]:
    """Return a line for each name, mean, low and high end, on a scale for all of them.

    Where the terminal's `encoding`, by default stdout's, has no such marks, ASCII is used.
    """
    ends = [end for _, *values in rows for end in values if isfinite(end)]
    if len(rows) < 2 or not ends or min(ends) == max(ends):
        return []
    first, span = min(ends), max(ends) - min(ends)
    marks = shown_by(encoding, _MARKS, _PLAIN)
    longest = max(len(name) for name, *_ in rows)
    found = []
    for name, *values in rows:
        cells = [" "] * _WIDTH
        mean, low, high = (
            round((value - first) / span * (_WIDTH - 1)) if isfinite(value) else None
            for value in values
        )
        if low is not None and high is not None:
            cells[low : high + 1] = marks[1] * (high + 1 - low)
            cells[low], cells[high] = marks[0], marks[3]
        if mean is not None:
            cells[mean] = marks[2]
        found.append(f"{name.ljust(longest)}  {''.join(cells).rstrip()}")
    scale = f"{first:.4g}".ljust(_WIDTH - 6) + f"{first + span:.4g}"
    return [*found, f"{''.ljust(longest)}  {scale}"]
