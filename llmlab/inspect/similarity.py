"""How alike representations are, and how many directions they use."""

import numpy as np


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Return the linear CKA of two representations of the same rows, (N, C) and (N, D).

    ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) of centred columns: 1 where they are equal but for a turn and a scale
    (Kornblith et al. 2019, arXiv:1905.00414).
    """
    x, y = (np.asarray(a, np.float64) - np.mean(a, axis=0, dtype=np.float64) for a in (x, y))
    own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / own) if own else float("nan")


def effective_rank(matrix: np.ndarray) -> float:
    """Return exp of the entropy of the singular values, as shares of their sum.

    From 1, where one direction is all, to the number of rows or columns (Roy and Vetterli 2007).
    """
    values = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    shares = values[values > 0] / values.sum() if values.sum() else np.ones(1)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def neighbours(table: np.ndarray, token: int, k: int = 8) -> list[tuple[int, float]]:
    """Return the k rows of a table (V, C) that point most in the direction of one, with cosines."""
    table = np.asarray(table, np.float64)
    lengths = np.linalg.norm(table, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.nan_to_num(table @ table[token] / (lengths * lengths[token]))
    order = [int(n) for n in np.argsort(-cosines, kind="stable") if n != token][:k]
    return [(n, float(cosines[n])) for n in order]


def sparsity(hidden: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the share of activations (T, F) that are nothing, and which units are dead, (F,).

    Nothing is below a thousandth of the greatest; a unit is dead that is nothing at every token.
    """
    size = np.abs(hidden)
    nothing = size <= 1e-3 * size.max(initial=0)
    return float(nothing.mean()), nothing.all(axis=0)
