"""Figures and tables for people."""

from collections.abc import Sequence
from math import isfinite


def figure(value: float) -> str:
    """Return a number with three digits: 0.0312, 13.3, 545, 12,346, 8.31e42.

    From 1 to 10 there are three behind the point: 1.002 as a perplexity isn't 1.00.
    """
    if not isfinite(value) or value == 0:
        return f"{value:g}"
    if 1 <= abs(value) < 9.9995:
        return f"{value:.3f}"
    if 1e-4 <= abs(value) < 999_500:
        return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def nats(value: float) -> str:
    """Return a loss: four decimals, unless it is beyond all that trains."""
    return f"{value:.4f}" if abs(value) < 1000 else figure(value)


def share(value: float, interval: tuple[float, float]) -> str:
    """Return a share and its 95 % interval in per cent."""
    low, high = interval
    return f"{value:.1%}, 95 % interval {low:.1%} to {high:.1%}"


def human(value: float, unit: str, base: int) -> str:
    """Return a number with a prefix: 1.5 MiB, 23.4 M."""
    letters = ("", "Ki", "Mi", "Gi", "Ti", "Pi") if base == 1024 else ("", *"kMGTPE")
    for prefix in letters:
        # 1,023.96 is 1.0 of the next, since 1024.0 is how nobody writes it.
        if round(value, 1 if prefix else 0) < base or prefix == letters[-1]:
            digits = 1 if prefix else 0
            number = f"{value:.{digits}f}" if value < 1e6 else figure(value)
            return f"{number} {prefix}{unit}".strip()
        value /= base
    raise AssertionError


def columns(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return rows as aligned lines, all but the first `left` columns to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
