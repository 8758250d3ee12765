"""Intervals of shares that were counted."""

from math import sqrt

_Z = 1.959963984540054  # 95 % of a normal distribution lie within


def wilson(share: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` trials; (0, 1) of none.

    Unlike share ± error it stays within 0 and 1, and has a width at 0 and at 1.
    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if not count:
        return 0.0, 1.0
    room = _Z**2 / count
    middle = (share + room / 2) / (1 + room)
    reach = sqrt(share * (1 - share) * room + room**2 / 4) / (1 + room)
    # At the ends they are equal but for rounding.
    low = 0.0 if share == 0 else max(0.0, middle - reach)
    high = 1.0 if share == 1 else min(1.0, middle + reach)
    return low, high
