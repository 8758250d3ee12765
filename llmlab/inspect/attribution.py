"""Which part of a network has given a logit how much."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlab.inspect.trace import NORMS, OUTPUTS, RESIDUAL, Record, Trace
from llmlab.layers import Stack
from llmlab.layers.attention import Attention
from llmlab.layers.dropout import Dropout
from llmlab.layers.norms import LayerNorm
from llmlab.layers.residual import Parallel, PostNorm, SandwichNorm
from llmlab.network import Network

BIASES = "biases"


@dataclass(frozen=True)
class Attribution:
    """The logits of a text as a sum of parts.

    Attributes
    ----------
    names
        Of the P parts: `tokens`, `positions`, `blocks.0.attention.head.1`, ..., and `biases`,
        all constants together.
    vectors
        What each part has left in what the output map gets, (P, T, C), in float64.
    weight, bias
        The output map (C, V), and its bias (V,) or None.
    frozen
        The norms that were held at what they have done in this pass.
    """

    names: list[str]
    vectors: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    frozen: list[str]

    def logits(self, tokens: np.ndarray, centred: bool = False) -> np.ndarray:
        """Return each part's share of the logit of one token at each place, (P, T).

        They add up to the logit. With `centred` they add up to the logit less the mean of all
        logits there, since a constant that all tokens get changes no probability.
        """
        tokens = np.asarray(tokens)
        columns = self.weight.T[tokens].astype(np.float64)  # (T, C)
        if centred:
            columns = columns - self.weight.mean(axis=1, dtype=np.float64)
        shares = np.einsum("ptc,tc->pt", self.vectors, columns)
        if self.bias is not None:
            own = self.bias.astype(np.float64)
            shares[self.names.index(BIASES)] += own[tokens] - (own.mean() if centred else 0.0)
        return shares


def attribute(network: Network, found: Trace) -> Attribution:
    """Return the direct logit attribution of a pass (Elhage et al. 2021), to heads and layers.

    Every norm on the way of the stream is held at the mean and the deviation that it has divided
    by, which makes it a linear map, its weight included; with post-norm and sandwich blocks that
    is one map after the other. A layer that isn't known as one that adds to the stream takes all
    that came before it into a part of its own.
    """
    way = _Way(found)
    way.follow("", network.stack)
    return Attribution(
        list(way.parts), np.stack(list(way.parts.values())), way.weight, way.bias, way.frozen
    )


class _Way:
    """The stream on its way through the layers, as a sum of named parts."""

    def __init__(self, found: Trace):
        self.found, self.frozen = found, list[str]()
        self.parts: dict[str, np.ndarray] = {}
        self.weight, self.bias = np.empty(0), None

    def follow(self, path: str, layer: Any) -> None:
        if isinstance(layer, Stack):
            for key, child in layer.children().items():
                self.follow(".".join(part for part in (path, key) if part), child)
            return
        record = self.found.of(layer, path)
        if isinstance(layer, OUTPUTS):
            weight = record.params["weight"]
            self.weight = weight.T if "tied" in type(layer).__name__.lower() else weight
            self.bias = record.params.get("bias")
        elif isinstance(layer, RESIDUAL):
            self._residual(path, layer)
        elif isinstance(layer, NORMS):
            self.parts = self._normed(self.parts, record)
        elif isinstance(layer, Dropout):
            return  # it drops nothing here
        elif not self.parts:
            self.parts = {path: _exact(record.y), BIASES: np.zeros(record.y.shape)}
        elif layer.adds_positions:
            self.parts[path] = _exact(record.y) - record.x
        else:
            self.parts = {path: _exact(record.y), BIASES: np.zeros(record.y.shape)}

    def _residual(self, path: str, layer: Any) -> None:
        inner = layer.layers.items() if isinstance(layer, Parallel) else [("", layer.layer)]
        added: dict[str, np.ndarray] = {BIASES: np.zeros_like(self.parts[BIASES])}
        for name, child in inner:
            where = ".".join(part for part in (path, name) if part)
            record = self.found.of(child, where)
            if isinstance(child, Attention) and record.heads is not None:
                shares = _exact(record.heads)
                added |= {f"{where}.head.{n}": shares[:, n] for n in range(child.num_heads)}
                added[BIASES] = added[BIASES] + record.y - shares.sum(axis=1)
            else:
                added[where] = _exact(record.y)
        if isinstance(layer, SandwichNorm):
            norm = self.found.of(layer.output_norm, f"{path}.output_norm")
            added = self._normed(added, norm)
        for name, vectors in added.items():
            self.parts[name] = self.parts[name] + vectors if name in self.parts else vectors
        if isinstance(layer, PostNorm):
            self.parts = self._normed(self.parts, self.found.of(layer.norm, f"{path}.norm"))

    def _normed(self, parts: dict[str, np.ndarray], norm: Record) -> dict[str, np.ndarray]:
        """Push each part through a norm that divides as it has done; its bias joins the biases."""
        self.frozen.append(norm.path)
        centred = isinstance(norm.layer, LayerNorm)
        scale = norm.params["weight"] * _exact(norm.inverse)
        found = {
            name: (each - each.mean(axis=1, keepdims=True) if centred else each) * scale
            for name, each in parts.items()
        }
        found[BIASES] = found[BIASES] + norm.params.get("bias", 0.0)
        return found


def _exact(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)
