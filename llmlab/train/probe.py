"""What goes on inside a network on a few tokens of a batch, seen through listeners."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np

from llmlab.batch import Batch
from llmlab.layers.attention import Attention
from llmlab.layers.feed_forward import FeedForward
from llmlab.layers.gated_feed_forward import GatedFeedForward
from llmlab.network import Network
from llmlab.train.array_statistics import norm, rounded

MOST_TOKENS = 128  # of a batch that are looked at
FEWEST_TOKENS = 32  # to call a unit dead
_MOST_BATCHES = 64
_SILENT = 1e-6  # of the layer's largest activation


def probe_of(batches: Iterable[Batch]) -> Batch | None:
    """Return the first rows of some batches as one, at most `MOST_TOKENS` tokens with padding."""
    found: list[Batch] = []
    for batch in islice(batches, _MOST_BATCHES):
        found.append(batch)
        if sum(each.inputs.size for each in found) >= MOST_TOKENS:
            break
    if not found:
        return None
    time = max(batch.inputs.shape[1] for batch in found)
    names = found[0].arrays()
    whole = Batch(
        **{name: np.concatenate([_padded(b.arrays()[name], time) for b in found]) for name in names}
    )
    time = min(time, MOST_TOKENS)
    count = min(len(whole.inputs), max(1, MOST_TOKENS // time))
    return whole.rows(np.arange(count), time)


def _padded(array: np.ndarray, time: int) -> np.ndarray:
    return np.pad(array, ((0, 0), (0, time - array.shape[1])))


class Probe:
    """Ask a network about a batch, by the paths of its layers."""

    def __init__(self, network: Network):
        self._network = network
        self._stream = {path for path, _ in network.stack.leaves()}
        self._units = {
            f"{path}.down": path
            for path, layer, _ in network.walk()
            if isinstance(layer, FeedForward | GatedFeedForward)
        }

    def look(self, batch: Batch) -> dict[str, Any]:
        """Return what a pass over a batch shows.

        Returns
        -------
        stream
            Root mean square of the output of each layer of the stack, in order; the last is that
            of the logits.
        entropy
            Of each attention, a number for each head: the mean over its tokens of the entropy of
            where they look, divided by that of looking everywhere alike. 0 is one place, 1 all.
        dead
            Of each feed-forward layer the share of hidden units that are silent on all tokens.
            Experts that got fewer than `FEWEST_TOKENS` tokens are left out.
        """
        real = np.arange(batch.inputs.shape[1]) < batch.lengths()[:, None]  # no padding, (B, T)
        found: dict[str, dict[str, Any]] = {"stream": {}, "entropy": {}, "dead": {}}

        def before(path: str, layer: Any, x: np.ndarray) -> None:
            owner = self._units.get(path)
            if owner is not None:
                rows = x[real.reshape(-1)] if len(x) == real.size else x
                if len(rows) >= FEWEST_TOKENS:
                    found["dead"][owner] = _dead(rows)

        def after(path: str, layer: Any, y: np.ndarray, cache: Any) -> None:
            if isinstance(layer, Attention):
                maps = layer.maps(cache, self._network.ctx)
                seen = _visible(batch, layer.window)
                found["entropy"][path] = _entropy(maps, seen, real)
            if path in self._stream:  # of a nameless inner layer first, then of the whole
                rows = y[real.reshape(-1)] if len(y) == real.size else y
                found["stream"][path] = rounded(norm(rows.reshape(-1)) / max(rows.size, 1) ** 0.5)

        with np.errstate(all="ignore"), self._network.listening(pre=before, post=after):
            self._network.forward(batch.inputs, segments=batch.segments, positions=batch.positions)
        order = [path for path, _ in self._network.stack.leaves()]
        found["stream"] = {p: found["stream"][p] for p in order if p in found["stream"]}
        return found


def _dead(x: np.ndarray) -> float | None:
    peaks = np.abs(x).max(axis=0)
    if not np.isfinite(peaks).all():
        return None
    return rounded(float(np.mean(peaks <= _SILENT * peaks.max())))


def _visible(batch: Batch, window: int | None) -> np.ndarray:
    """Return how many tokens each one can look at, (B, T)."""
    rows, time = batch.inputs.shape
    place = np.broadcast_to(np.arange(time), (rows, time))
    if batch.segments is not None:
        new = np.diff(batch.segments, axis=1, prepend=batch.segments[:, :1] - 1) != 0
        place = place - np.maximum.accumulate(np.where(new, place, 0), axis=1)
    return np.minimum(place + 1, window or time)


def _entropy(maps: np.ndarray, seen: np.ndarray, real: np.ndarray) -> list[float | None]:
    """Return each head's mean entropy over what is possible; None if no token has a choice."""
    counted = real & (seen > 1)
    if not counted.any():
        return [None] * maps.shape[1]
    own = np.moveaxis(maps, 1, 2)[counted]  # (tokens, H, T)
    logs = np.maximum(own, np.finfo(own.dtype).tiny)
    np.log(logs, out=logs)
    logs *= own
    entropy = -logs.sum(axis=2)
    return [rounded(value) for value in (entropy / np.log(seen[counted])[:, None]).mean(axis=0)]


def flat(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return what `look` gave as flat numbers, `stream/NAME` and so on, for a tracker."""
    values: dict[str, float] = {}
    for kind, own in found.items():
        for path, value in own.items():
            for number, each in enumerate(value if isinstance(value, list) else [value]):
                head = f".{number}" if isinstance(value, list) else ""
                if each is not None:
                    values[f"{kind}/{path}{head}"] = each
    return values
