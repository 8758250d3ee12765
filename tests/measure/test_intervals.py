"""Wilson's interval, against its definition."""

from math import sqrt

import pytest

from llmlab.measure import wilson

Z = 1.959963984540054


@pytest.mark.parametrize(("right", "count"), [(0, 53), (53, 53), (1, 2), (7, 20), (999, 1000)])
def test_its_ends_are_where_the_share_is_as_far_off_as_chance_allows(right, count):
    """The ends p solve |share - p| = z sqrt(p (1 - p) / n); found by bisection."""
    share = right / count
    low, high = wilson(share, count)

    def end(inner, outer):
        for _ in range(100):
            middle = (inner + outer) / 2
            if abs(share - middle) <= Z * sqrt(middle * (1 - middle) / count):
                inner = middle
            else:
                outer = middle
        return inner

    assert low == pytest.approx(end(share, 0.0), abs=1e-9)
    assert high == pytest.approx(end(share, 1.0), abs=1e-9)
    assert 0 <= low <= share <= high <= 1


def test_it_has_a_width_at_both_ends_and_touches_them():
    assert wilson(0.0, 53)[0] == 0
    assert wilson(0.0, 53)[1] == pytest.approx(0.0676, abs=1e-4)
    assert wilson(1.0, 53)[1] == 1
    assert wilson(1.0, 10)[0] == pytest.approx(0.7225, abs=1e-4)  # Agresti and Coull (1998)
    assert wilson(0.0, 0) == (0.0, 1.0)
