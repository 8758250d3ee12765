"""What is lost without a head or a layer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from llmlab.batch import Batch
from llmlab.inspect.lens import log_softmax
from llmlab.inspect.trace import RESIDUAL
from llmlab.layers.attention import Attention
from llmlab.layers.residual import Parallel
from llmlab.network import Network

MOST_LOGITS = 2**23  # at once: 64 MB in float64


class Part(NamedTuple):
    """A head of an attention, or with `head` None the whole of what a residual goes round."""

    path: str
    head: int | None = None

    @property
    def name(self) -> str:
        """As `attribute` names it."""
        return self.path if self.head is None else f"{self.path}.head.{self.head}"


class Effect(NamedTuple):
    """How much the loss rises without a part, in nats a token.

    Attributes
    ----------
    change, error
        Mean over the tokens, and its standard error from how the rows differ; nan for one row.
    """

    change: float
    error: float


def parts_of(network: Network) -> list[Part]:
    """Return every head, and every other layer inside a residual connection, in order."""
    found: list[Part] = []
    for path, layer in network.stack.leaves():
        for where, inner in _inside(path, layer):
            if isinstance(inner, Attention):
                found += [Part(where, head) for head in range(inner.num_heads)]
            else:
                found.append(Part(where))
    return found


@contextmanager
def ablated(
    network: Network, part: Part, means: Mapping[str, np.ndarray] | None = None
) -> Iterator[None]:
    """While open, let a part give zeros, or its mean in `means` (from `mean_outputs`).

    A head's output is replaced before the heads are mixed.
    """
    inner = next(layer for path, layer in _sublayers(network) if path == part.path)
    value = np.zeros(1) if means is None else means[part.path]

    def replaced(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        if part.head is None:
            x[:] = value
        else:
            own = slice(part.head * inner.head_dim, (part.head + 1) * inner.head_dim)
            x[:, own] = value if means is None else value[own]
        return x

    def pre(path: str, layer: Any, x: np.ndarray) -> np.ndarray | None:
        return replaced(x) if path == f"{part.path}.out" and layer is inner.out else None

    def post(path: str, layer: Any, y: np.ndarray, cache: Any) -> np.ndarray | None:
        return replaced(y) if path == part.path and layer is inner else None

    mixed = part.head is not None and inner.out is not None
    with network.listening(pre) if mixed else network.listening(post=post):
        yield


def mean_outputs(network: Network, batch: Batch) -> dict[str, np.ndarray]:
    """Return by path what each part gives on average over all tokens of a batch, (C,).

    Of attention it is what the heads give before they are mixed. Padding doesn't count.
    """
    inner = dict(_sublayers(network))
    sums: dict[str, np.ndarray] = {}
    count, real = 0, np.empty(0, bool)

    def add(path: str, x: np.ndarray) -> None:
        sums[path] = sums.get(path, 0.0) + x[real].sum(axis=0, dtype=np.float64)

    def pre(path: str, layer: Any, x: np.ndarray) -> None:
        own = inner.get(path.removesuffix(".out"))
        if path.endswith(".out") and isinstance(own, Attention) and layer is own.out:
            add(path.removesuffix(".out"), x)

    def post(path: str, layer: Any, y: np.ndarray, cache: Any) -> None:
        own = inner.get(path)
        if layer is own and not (isinstance(own, Attention) and own.out is not None):
            add(path, y)

    pieces = list(_pieces(network, batch))
    with network.listening(pre, post):
        for piece in pieces:
            real = piece.weights.reshape(-1) > 0
            count += int(real.sum())
            _logits(network, piece)
    return {path: total / max(count, 1) for path, total in sums.items()}


def token_losses(network: Network, batch: Batch) -> np.ndarray:
    """Return −ln p of each target after its inputs, in nats: (B, T)."""
    found = []
    for piece in _pieces(network, batch):
        logs = log_softmax(_logits(network, piece))
        found.append(-np.take_along_axis(logs, piece.targets[..., None], axis=-1)[..., 0])
    return np.concatenate(found)


def effects(
    network: Network,
    batch: Batch,
    mean: bool = False,
    parts: Sequence[Part] | None = None,
) -> dict[Part, Effect]:
    """Return how much the loss on a batch rises without each part.

    On a single prompt an ablation misleads: what can't be predicted gets better by chance.

    Parameters
    ----------
    batch
        Its rows are what is independent.
    mean
        Whether a part is replaced by its mean over the batch, and not by zeros.
    """
    means = mean_outputs(network, batch) if mean else None
    weights = batch.weights.astype(float)
    before = (token_losses(network, batch) * weights).sum(axis=1)
    found = {}
    for part in parts_of(network) if parts is None else parts:
        with ablated(network, part, means):
            changes = (token_losses(network, batch) * weights).sum(axis=1) - before
        found[part] = _ratio(changes, weights.sum(axis=1))
    return found


def _logits(network: Network, piece: Batch) -> np.ndarray:
    return network.forward(piece.inputs, segments=piece.segments, positions=piece.positions)


def _pieces(network: Network, batch: Batch) -> Iterator[Batch]:
    """Yield the rows of a batch, as many at a time as there is room for their logits."""
    count, time = batch.inputs.shape
    vocab_size = network.forward(batch.inputs[:1, :1]).shape[-1]
    each = max(1, MOST_LOGITS // (time * vocab_size))
    for start in range(0, count, each):
        yield batch.rows(np.arange(start, min(start + each, count)), time)


def _ratio(totals: np.ndarray, weights: np.ndarray) -> Effect:
    """Return the mean by token, and its standard error from the deviations of the rows."""
    mean, count = totals.sum() / weights.sum(), len(totals)
    if count < 2:
        return Effect(float(mean), float("nan"))
    square = ((totals - mean * weights) ** 2).sum() * count / (count - 1)
    return Effect(float(mean), float(np.sqrt(square) / weights.sum()))


def _inside(path: str, layer: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(layer, Parallel):
        yield from ((f"{path}.{name}", inner) for name, inner in layer.layers.items())
    elif isinstance(layer, RESIDUAL):
        yield path, layer.layer


def _sublayers(network: Network) -> Iterator[tuple[str, Any]]:
    for path, layer in network.stack.leaves():
        yield from _inside(path, layer)
