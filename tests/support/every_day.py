"""The mark `every_day(count)`: how many cases of a parametrised test the default run has."""

from collections import defaultdict
from itertools import pairwise

RATIO = (5**0.5 - 1) / 2  # its multiples stay far from one another, modulo 1


def spread(count, of):
    """Return the positions of `count` cases of `of`, the first among them: one of each part.

    Within its part each is somewhere else, since at even distances a table of rows and columns
    would be left with a single column.
    """
    count = min(count, of)
    ends = [part * of // count for part in range(count + 1)]
    parts = pairwise(ends)
    return [low + int(RATIO * n % 1 * (high - low)) for n, (low, high) in enumerate(parts)]


def left_to_slow(items):
    """Return the cases that their mark leaves out; those marked `slow` anyway don't count."""
    cases = defaultdict(list)
    for item in items:
        mark = item.get_closest_marker("every_day")
        if mark is not None and item.get_closest_marker("slow") is None:
            cases[item.nodeid.split("[")[0], *mark.args].append(item)
    left = []
    for (_, count), of_one_test in cases.items():
        kept = set(spread(count, len(of_one_test)))
        left += [item for n, item in enumerate(of_one_test) if n not in kept]
    return left
