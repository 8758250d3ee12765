"""Figures as a person writes them."""

import pytest

from llmlab.report.tables import figure, human, nats, share


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8306310328202481496790466406356948816494592.0, "8.31e42"),
        (1e6, "1.00e6"),
        (999_999, "1.00e6"),
        (999_499, "999,499"),
        (12345.6, "12,346"),
        (544.6, "545"),
        (99.96, "100"),
        (13.2846, "13.3"),
        (1.0034, "1.003"),
        (9.9996, "10.0"),
        (0.031249, "0.0312"),
        (3.2e-9, "3.20e-9"),
        (-2.5e9, "-2.50e9"),
        (0.0, "0"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_figures_have_as_many_digits_as_say_something(value, text):
    assert figure(value) == text


def test_losses_have_four_decimals_as_long_as_that_says_something():
    assert nats(1.23456) == "1.2346"
    assert nats(98.7) == "98.7000"
    assert nats(1.5e30) == "1.50e30"


def test_a_share_has_its_interval():
    assert share(0.0, (0.0, 0.0676)) == "0.0%, 95 % interval 0.0% to 6.8%"


@pytest.mark.parametrize(
    ("value", "unit", "base", "text"),
    [
        (0, "B", 1024, "0 B"),
        (1023, "B", 1024, "1023 B"),
        (1023.96, "B", 1024, "1.0 KiB"),
        (1024 * 1023.96, "B", 1024, "1.0 MiB"),
        (999_960, "", 1000, "1.0 M"),
        (1536, "B", 1024, "1.5 KiB"),
        (2**60, "B", 1024, "1024.0 PiB"),
        (10**30, "FLOPs", 1000, "1.00e12 EFLOPs"),
    ],
)
def test_sizes_have_the_prefix_that_fits(value, unit, base, text):
    assert human(value, unit, base) == text
