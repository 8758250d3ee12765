"""One pass over a text, with copies of what happens between the layers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmlab.layers.attention import Attention
from llmlab.layers.dropout import Dropout
from llmlab.layers.experts import MixtureOfExperts
from llmlab.layers.norms import LayerNorm, RMSNorm
from llmlab.layers.output import OutputProjection, TiedOutputProjection
from llmlab.layers.residual import Parallel, PostNorm, PreNorm, SandwichNorm
from llmlab.network import Network

RESIDUAL = (PreNorm, PostNorm, SandwichNorm, Parallel)
NORMS = (LayerNorm, RMSNorm)
OUTPUTS = (OutputProjection, TiedOutputProjection)


@dataclass(frozen=True)
class Record:
    """A layer's part in the pass.

    Attributes
    ----------
    path, layer, params
        Its dotted path, itself and its parameters. A residual connection and what it goes round
        have one path.
    x, y
        Input and output, a row a token.
    inverse
        Of a norm: one over what it has divided each row by, (T, 1).
    heads
        Of attention: each head's share of the output, (T, H, C). Their sum lacks only the bias.
    """

    path: str
    layer: Any
    params: Any
    x: np.ndarray
    y: np.ndarray
    inverse: np.ndarray | None = None
    heads: np.ndarray | None = None


@dataclass(frozen=True)
class Trace:
    """What a pass over one text has left.

    Attributes
    ----------
    ids, logits
        The tokens (T,), and for each the logits of the next, (T, V).
    records
        Of every layer that was called, in the order in which they ended.
    maps
        By path of an attention: the probabilities (H, T, T); row t is whom token t looks at.
    hidden
        By path of a feed-forward: what its activation gives `down`, (T, F). An expert has only
        the rows of the tokens that chose it.
    routing
        By path of a mixture: the weight of each expert for each token, (T, E); 0: not chosen.
    stream
        By path of a layer of the stack, in order: the stream of vectors behind it, (T, C). The
        last one is what the final norm or the output gets.
    """

    ids: np.ndarray
    logits: np.ndarray
    records: list[Record]
    maps: dict[str, np.ndarray]
    hidden: dict[str, np.ndarray]
    routing: dict[str, np.ndarray]
    stream: dict[str, np.ndarray] = field(default_factory=dict)

    def of(self, layer: Any, path: str) -> Record:
        """Return the record of a layer at a path; one layer may stand at several."""
        return next(each for each in self.records if each.layer is layer and each.path == path)


class _Recorder:
    """The listener behind `trace`."""

    def __init__(self, network: Network, shares: bool):
        self._network, self._shares = network, shares
        self._params = {(path, id(layer)): p for path, layer, p in network.walk()}
        self._inputs: dict[tuple[str, int], np.ndarray] = {}
        self._busy = False  # asking a layer for the shares of its heads calls the maps in it
        self.records: list[Record] = []
        self.maps: dict[str, np.ndarray] = {}
        self.hidden: dict[str, np.ndarray] = {}
        self.routing: dict[str, np.ndarray] = {}

    def pre(self, path: str, layer: Any, x: np.ndarray) -> None:
        if not self._busy:
            self._inputs[path, id(layer)] = x.copy()

    def post(self, path: str, layer: Any, y: np.ndarray, cache: Any) -> None:
        if self._busy:
            return
        p, x = self._params[path, id(layer)], self._inputs.pop((path, id(layer)))
        ctx, inverse, heads = self._network.ctx, None, None
        if isinstance(layer, NORMS):
            inverse = np.array(cache[1], copy=True).reshape(-1, 1)
        if isinstance(layer, Attention):
            self.maps[path] = layer.maps(cache, ctx)[0].copy()
            if self._shares:
                self._busy = True
                heads = layer.heads(cache, p, ctx)[0].copy()
                self._busy = False
        if isinstance(layer, MixtureOfExperts):
            self.routing[path] = layer.routing(cache, ctx)[0].copy()
        if path.endswith(".down"):
            self.hidden[path.removesuffix(".down")] = x
        self.records.append(Record(path, layer, p, x, y.copy(), inverse, heads))


def trace(network: Network, ids: Sequence[int] | np.ndarray, shares: bool = True) -> Trace:
    """Return copies of everything that a pass over the ids (T,) makes.

    Without `shares` the heads' shares of the outputs are left out, which take H · T · C numbers
    a layer.
    """
    ids = np.asarray(ids, np.intp)
    found = _Recorder(network, shares)
    with network.listening(found.pre, found.post):
        logits = network.forward(ids).copy()
    read = {path for path, _ in tail(network)}
    leaves = {path: layer for path, layer in network.stack.leaves() if path not in read}
    leaves = {path: layer for path, layer in leaves.items() if not isinstance(layer, Dropout)}
    made = Trace(ids, logits, found.records, found.maps, found.hidden, found.routing)
    made.stream.update({path: made.of(layer, path).y for path, layer in leaves.items()})
    return made


def tail(network: Network) -> list[tuple[str, Any]]:
    """Return path and layer of what reads the stream: the output, and a final norm before it."""
    leaves = list(network.stack.leaves())
    first = len(leaves)
    while first and isinstance(leaves[first - 1][1], (*NORMS, *OUTPUTS)):
        first -= 1
    return leaves[first:]
