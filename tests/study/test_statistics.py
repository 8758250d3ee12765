"""Statistics of few seeds, held against SciPy and statsmodels."""

import math

import numpy as np
import pytest

from llmlab.study.statistics import (
    MANY_SEEDS,
    POWER,
    estimate,
    holm,
    needed_seeds,
    paired_difference,
    power,
    visible_difference,
)


@pytest.mark.parametrize("count", [2, 3, 5, 20])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.999])
def test_an_interval_is_scipys(count, level):
    from scipy import stats

    values = np.random.default_rng(count).normal(2, 0.3, count)
    found = estimate(values.tolist(), level)
    low, high = stats.t.interval(
        level, count - 1, values.mean(), values.std(ddof=1) / math.sqrt(count)
    )
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.mean == pytest.approx(values.mean())
    assert found.deviation == pytest.approx(values.std(ddof=1))


@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_paired_difference_is_scipys(count):
    from scipy import stats

    rng = np.random.default_rng(count)
    one, other = rng.normal(0, 1, count), rng.normal(0.5, 1, count)
    seeds = range(10, 10 + count)
    found = paired_difference(
        dict(zip(seeds, one.tolist(), strict=True)),
        {**dict(zip(seeds, other.tolist(), strict=True)), 99: 1e9},  # not in common
    )
    theirs = stats.ttest_rel(one, other)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-12)
    interval = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert found.count == count


def test_what_is_not_known_is_not_claimed():
    alone = paired_difference({0: 1.0}, {0: 2.0, 1: 5.0})
    assert (alone.count, alone.mean, alone.p) == (1, -1.0, 1.0)
    assert (alone.low, alone.high) == (-math.inf, math.inf)
    nothing = paired_difference({0: 1.0}, {1: 2.0})
    assert (nothing.count, nothing.p) == (0, 1.0)
    same = paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (same.mean, same.p, same.low, same.high) == (0, 1, 0, 0)
    assert paired_difference({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0}).p == 0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parity
def test_holm_is_statsmodels():
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 15):
        p_values = rng.uniform(0, 0.2, count)
        _, theirs, _, _ = multipletests(p_values, method="holm")
        assert holm(p_values.tolist()) == pytest.approx(theirs.tolist(), rel=1e-12)


@pytest.mark.parity
def test_power_is_statsmodels():
    from statsmodels.stats.power import TTestPower

    for seeds, effect, alpha in ((3, 2, 0.05), (10, 1, 0.05), (20, 0.5, 0.01)):
        theirs = TTestPower().power(effect, seeds, alpha)
        assert power(seeds, effect, alpha) == pytest.approx(theirs, rel=1e-9)


def test_needed_seeds_have_the_power_that_they_promise():
    count = needed_seeds(1.0, 1.0, 0.05)
    assert count == 10
    assert power(count, 1.0, 0.05) >= POWER > power(count - 1, 1.0, 0.05)
    assert needed_seeds(0.01, 1.0, 0.05) is None
    assert needed_seeds(1.0, 0.0, 0.05) == 2
    seen = visible_difference(MANY_SEEDS, 2.0, 0.05)
    assert power(MANY_SEEDS, seen / 2, 0.05) == pytest.approx(POWER, abs=1e-6)
