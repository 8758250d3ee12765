"""Gradients of looked-up rows."""

from typing import Any

import numpy as np


def add_rows(ctx: Any, index: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Add rows (N, C) to out[index] (V, C), rows of the same index in a fixed order."""
    if not ctx.wants(out):
        return
    n, vocabulary = len(index), len(out)
    if n * vocabulary <= 1 << 18:
        with ctx.scratch():
            onehot = ctx.empty((vocabulary, n))
            onehot.fill(0)
            onehot[index, ctx.counting(n)] = 1
            ctx.add_product(onehot, rows, out)
        return
    out = ctx.gradient(out)
    order = np.argsort(index, kind="stable")
    ids = index[order]
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    with ctx.scratch():
        ordered = ctx.empty(rows.shape)
        np.take(rows, order, axis=0, out=ordered, mode="clip")
        out[ids[starts]] += np.add.reduceat(ordered, starts, axis=0)
