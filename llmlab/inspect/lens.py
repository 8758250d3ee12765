"""What a network would say if it ended after a layer, and how surprised it is."""

from typing import Any, NamedTuple

import numpy as np

from llmlab.inspect.trace import Trace, tail
from llmlab.network import Network


class Lens(NamedTuple):
    """The reading of the stream behind one layer, for each token of the text.

    Attributes
    ----------
    path
        Of the layer.
    logits
        (T, V).
    loss
        Nats of the token that comes next in the text, (T − 1,).
    divergence
        KL(last ‖ here) in nats, (T,): how far this reading is from the network's answer.
    norm
        Euclidean norm of the stream, (T,).
    """

    path: str
    logits: np.ndarray
    loss: np.ndarray
    divergence: np.ndarray
    norm: np.ndarray


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log probabilities over the last axis, in float64."""
    x = np.asarray(logits, np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def surprise(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return −ln p of tokens 1 to T − 1, each after those before it, in nats: (T − 1,)."""
    logs = log_softmax(logits[:-1])
    return -logs[np.arange(len(logs)), np.asarray(ids)[1:]]


def top_tokens(logits: np.ndarray, k: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and probabilities of the k most probable next tokens, (T, k), best first."""
    probabilities = np.exp(log_softmax(logits))
    order = np.argsort(-probabilities, axis=-1, kind="stable")[..., :k]
    return order, np.take_along_axis(probabilities, order, axis=-1)


def read(network: Network, stream: np.ndarray) -> np.ndarray:
    """Return the logits (T, V) that the network's own final norm and output give for a stream."""
    ctx = network.ctx
    ctx.begin(1, len(stream))
    x: Any = np.ascontiguousarray(stream, ctx.dtype)
    for path, layer in tail(network):
        x, _ = layer.forward(_params(network, path, layer), x, ctx)
    return x.copy()


def lens(network: Network, found: Trace) -> list[Lens]:
    """Return the logit lens behind each layer of the stack (nostalgebraist 2020).

    The last reading is the network's own. With norms behind the sum (post-norm) the stream is
    normed already, and there is no final norm to apply.
    """
    last = log_softmax(found.logits)
    readings = []
    for path, stream in found.stream.items():
        logits = read(network, stream)
        logs = log_softmax(logits)
        divergence = (np.exp(last) * (last - logs)).sum(axis=1)
        norm = np.sqrt((stream.astype(np.float64) ** 2).sum(axis=1))
        readings.append(Lens(path, logits, surprise(logits, found.ids), divergence, norm))
    return readings


def _params(network: Network, path: str, layer: Any) -> Any:
    return next(p for where, each, p in network.walk() if where == path and each is layer)
