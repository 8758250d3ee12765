"""Which experts a token goes to, and the loss that keeps them all busy."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Choice:
    """The choices of N tokens, k each, and their order by expert."""

    index: np.ndarray  # place of each choice in the flat probabilities, (k, N)
    gates: np.ndarray  # weight of each chosen expert's output, (k, N)
    total: np.ndarray  # what the gates were divided by, (N,)
    places: np.ndarray  # the flat places of (k, N), ordered by expert: those of `parts[e]` chose e
    rows: np.ndarray  # the token of each of them
    weights: np.ndarray  # its gate
    parts: list[slice]  # of each expert the slice of `places`, `rows` and `weights` that chose it


def choose(probabilities: np.ndarray, top_k: int, normalize: bool, ctx: Any) -> Choice:
    """Return the `top_k` most probable experts of each row (N, E); of equal ones the first."""
    n, experts = probabilities.shape
    index, gates = ctx.empty((top_k, n), np.intp), ctx.empty((top_k, n))
    total, chosen = ctx.empty((n,)), ctx.empty((top_k, n), np.intp)
    flat = probabilities.reshape(-1)
    with ctx.scratch():
        rest, first = ctx.empty(probabilities.shape), ctx.empty((n,), np.intp)
        np.copyto(rest, probabilities)
        np.multiply(ctx.counting(n), experts, out=first)
        for k in range(top_k):
            np.argmax(rest, axis=1, out=chosen[k])
            np.add(chosen[k], first, out=index[k])
            np.take(flat, index[k], out=gates[k], mode="clip")
            rest.reshape(-1)[index[k]] = -1
    np.add.reduce(gates, axis=0, out=total)
    if normalize:
        gates /= total
    # Sorting has no out=: these few whole numbers are not in the workspace.
    places = np.argsort(chosen.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(chosen.reshape(-1), minlength=experts)).tolist()
    parts = [slice(start, stop) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]
    weights, rows = ctx.empty((top_k * n,)), ctx.empty((top_k * n,), np.intp)
    np.take(gates.reshape(-1), places, out=weights, mode="clip")
    np.remainder(places, n, out=rows)
    return Choice(index, gates, total, places, rows, weights, parts)


def choose_backward(
    dgates: np.ndarray,
    probabilities: np.ndarray,
    choice: Choice,
    dbalance: np.ndarray | None,
    normalize: bool,
    ctx: Any,
) -> np.ndarray:
    """Return the gradient of the router's logits (N, E).

    `dbalance` is the gradient of the balance loss by the probabilities; which experts are chosen
    has none.
    """
    dp, dots = ctx.empty(probabilities.shape), ctx.empty((len(probabilities), 1))
    row = dots[:, 0]
    if normalize:
        np.einsum("kn,kn->n", dgates, choice.gates, out=row)
        dgates -= row
        dgates /= choice.total
    if dbalance is None:
        dp.fill(0)
    else:
        np.copyto(dp, dbalance)
    for index, dgate in zip(choice.index, dgates, strict=True):
        dp.reshape(-1)[index] += dgate
    np.einsum("ne,ne->n", dp, probabilities, out=row)
    return ctx.kernels.softmax_backward(ctx, dp, probabilities, dots)


def balance_loss(probabilities: np.ndarray, choice: Choice, balance: float, ctx: Any) -> np.ndarray:
    """Report balance · E · Σ_e f_e · P_e of each sample, times its tokens; return its gradient.

    A sample is a row, or a segment of a packed one. Only real tokens count, by their weight in the
    loss: f and P are means over them.
    """
    experts = probabilities.shape[1]
    top_k, batch = len(choice.gates), ctx.batch
    dbalance = ctx.empty(probabilities.shape)
    loss = ctx.empty((batch,))
    with ctx.scratch():
        w = _weights_by_sample(ctx)
        samples = w.shape[2]
        counts, mean = (ctx.empty((batch, samples, experts)) for _ in range(2))
        tokens = ctx.empty((batch, samples))
        dbalance.fill(0)
        for index in choice.index:
            dbalance.reshape(-1)[index] = 1
        shape = (batch, -1, experts)
        np.einsum("bts,bte->bse", w, dbalance.reshape(shape), out=counts)
        np.einsum("bts,bte->bse", w, probabilities.reshape(shape), out=mean)
        np.add.reduce(w, axis=1, out=tokens)
        np.maximum(tokens, np.finfo(ctx.dtype).tiny, out=tokens)  # where all is padding
        counts *= balance * experts / top_k
        counts /= tokens[:, :, None]
        np.einsum("bse,bse->b", counts, mean, out=loss)
        counts *= ctx.loss_scale
        np.einsum("bts,bse->bte", w, counts, out=dbalance.reshape(shape))
    ctx.add_loss(loss)
    return dbalance


def _weights_by_sample(ctx: Any) -> np.ndarray:
    """Return the weight that each token has in each sample of its row, (B, T, S)."""
    w = ctx.weights.reshape(ctx.batch, -1, 1)
    if ctx.segments is None:
        return w
    samples = max(1, int(ctx.segments.max(initial=0)) + 1)
    mine = ctx.empty((*w.shape[:2], samples), bool)
    np.equal(ctx.segments[:, :, None], ctx.counting(samples), out=mine)
    parts = ctx.empty(mine.shape)
    np.multiply(w, mine, out=parts)
    return parts
