from math import log

import pytest

from llmlab.measure import entropy_floor


def sample(ids, weights=None):
    return ids, weights or [1.0] * (len(ids) - 1)


def test_by_hand():
    # After 1: 2, 2, 3. After (1, 2): 4, 5. After (1, 3): 4, always. After 9: 4, always.
    samples = [sample(ids) for ids in ([1, 2, 4], [1, 2, 5], [1, 3, 4], [9, 4])]
    after_1 = 2 * log(3 / 2) + log(3)
    after_12 = 2 * log(2)
    assert entropy_floor(samples) == pytest.approx((after_1 + after_12) / 7, abs=1e-15)


def test_different_beginnings_leave_nothing():
    assert entropy_floor([sample([1, 2, 3]), sample([2, 2, 4]), sample([3, 2, 3])]) == 0


def test_the_whole_prefix_counts_not_the_last_id():
    assert entropy_floor([sample([1, 2, 3]), sample([4, 2, 5])]) == 0


def test_weights():
    # Targets of weight 0 leave no trace; 3 and 1 are like three samples and one.
    masked = [([1, 2, 3], [0.0, 1.0]), ([1, 5, 3], [0.0, 1.0])]
    assert entropy_floor(masked) == 0
    weighted = [([1, 2], [3.0]), ([1, 3], [1.0])]
    repeated = [sample([1, 2])] * 3 + [sample([1, 3])]
    assert entropy_floor(weighted) == pytest.approx(entropy_floor(repeated))
    assert entropy_floor(weighted) == pytest.approx((3 * log(4 / 3) + log(4)) / 4)


def test_longer_prefixes_than_recursion_allows():
    assert entropy_floor([sample([1] * 50_000)]) == 0


def test_nothing_to_predict():
    with pytest.raises(ValueError, match="no target"):
        entropy_floor([([1, 2], [0.0])])
