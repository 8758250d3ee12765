"""The mark `every_day(count)`: which cases stay in the default run, and that none is lost."""

import pytest
from every_day import left_to_slow, spread


@pytest.mark.parametrize("of", [1, 4, 5, 7, 40, 1638])
def test_one_case_of_each_part_stays(of):
    for count in (1, 2, 4, 6):
        kept = spread(count, of)
        assert len(kept) == min(count, of) and kept[0] == 0
        for part, position in enumerate(kept):
            assert part * of // len(kept) <= position < (part + 1) * of // len(kept)


def test_a_table_keeps_several_rows_and_columns():
    kept = [divmod(position, 6) for position in spread(5, 30)]
    assert {row for row, _ in kept} == set(range(5))
    assert len({column for _, column in kept}) >= 4


class Item:
    def __init__(self, nodeid, *marks):
        self.nodeid, self.marks = nodeid, {mark.name: mark for mark in marks}

    def get_closest_marker(self, name):
        return self.marks.get(name)


def test_cases_are_counted_by_test_and_without_those_that_are_slow_anyway():
    day, slow = pytest.mark.every_day(2).mark, pytest.mark.slow.mark
    items = [Item(f"a.py::test_one[{n}]", day) for n in range(4)]
    items += [Item(f"a.py::test_two[{n}]", day, *[slow] * (n < 3)) for n in range(5)]
    items += [Item(f"a.py::test_three[{n}]") for n in range(9)]
    left = [item.nodeid for item in left_to_slow(items)]
    assert len(left) == 2 and all("test_one" in name for name in left)
    assert not left_to_slow(items[:1])
