"""Matrix products."""

import numpy as np


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write the matrix product a @ b to `out`."""
    return np.matmul(a, b, out=out)
