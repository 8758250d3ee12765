"""How the kernels are compiled, and the exponential that they share."""

from typing import Any

import numba
import numpy as np

# Reordering and contraction, but never "there is no NaN" or "no infinity": what is not finite
# must come out as such, so that the step is skipped.
FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}

_LOG2E = np.float32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_C = tuple(np.float32(c) for c in (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5))


def compiled(function: Any) -> Any:
    """Compile without the interpreter's lock, once: the machine code is kept on disk."""
    return numba.njit(nogil=True, fastmath=FAST, error_model="numpy", cache=True)(function)


@numba.njit(inline="always")
def exp32(x):
    """Return exp(x) to about 1e-7 relative, in a form that the compiler can vectorise.

    x = n ln 2 + r with |r| ≤ ln 2 / 2; Taylor's series for r, n goes into the exponent's bits.
    """
    clipped = min(max(x, np.float32(-87.0)), np.float32(88.0))
    n = np.floor(clipped * _LOG2E + np.float32(0.5))
    r = clipped - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    p = _C[0]
    p = p * r + _C[1]
    p = p * r + _C[2]
    p = p * r + _C[3]
    p = p * r + _C[4]
    p = p * r + _C[5]
    p = p * r * r + r + np.float32(1)
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    # Comparisons with NaN are false, so that NaN stays NaN through the clipping above.
    return p * power if x == x else x
