"""Gradients of looked-up rows."""

from llmlab.kernels.numba_kernels.compiler import compiled


def add_rows(ctx, index, rows, out):
    """Add rows (N, C) to out[index] (V, C), in order."""
    if ctx.wants(out):
        _add_rows(index, rows, ctx.gradient(out))


@compiled
def _add_rows(index, rows, out):
    n, c = rows.shape
    for i in range(n):
        at = index[i]
        for j in range(c):
            out[at, j] += rows[i, j]
