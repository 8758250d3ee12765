"""Figures and tables for people."""

from collections.abc import Sequence


def human(value: float, unit: str, base: int) -> str:
    """Return a number with a prefix: 1.5 MiB, 23.4 M."""
    prefixes = ("", "Ki", "Mi", "Gi", "Ti") if base == 1024 else ("", "k", "M", "G", "T")
    for prefix in prefixes[:-1]:
        if value < base:
            return f"{value:.{1 if prefix else 0}f} {prefix}{unit}".strip()
        value /= base
    return f"{value:.1f} {prefixes[-1]}{unit}"


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
