"""What of a second text makes the difference, and where."""

from typing import Any

import numpy as np

from llmlab.errors import ConfigError
from llmlab.inspect.lens import log_softmax
from llmlab.inspect.trace import trace
from llmlab.network import Network, Post


def patch_effects(
    network: Network, ids: np.ndarray, other: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Return how far each place of another text moves the answer towards its own.

    The stream of the first text is replaced at one layer and one place by that of the other; 0
    leaves the log probability of the other's most probable answer at the last place as it is, 1
    makes it the other's.

    Parameters
    ----------
    ids, other
        Two texts of equal length, (T,).

    Returns
    -------
    The layers' paths, and (layers, T).

    Raises
    ------
    ConfigError
        The texts have different lengths, or both give that answer the same probability.
    """
    ids, other = np.asarray(ids), np.asarray(other)
    if ids.shape != other.shape:
        raise ConfigError(
            f"inspect.against: {len(other)} tokens with those of the template, and the prompt has "
            f"{len(ids)}; patching needs equally many"
        )
    source = trace(network, other, shares=False)
    token = int(np.argmax(source.logits[-1]))
    plain = float(log_softmax(network.forward(ids)[-1])[token])
    whole = float(log_softmax(source.logits[-1])[token]) - plain
    if whole == 0:
        raise ConfigError("inspect.against: makes no difference to the answer; give another text")
    leaves = dict(network.stack.leaves())
    found = np.zeros((len(source.stream), len(ids)))
    first = int(np.flatnonzero(ids != other)[0])  # before it both streams are the same
    for row, (path, stream) in enumerate(source.stream.items()):
        for at in range(first, len(ids)):
            with network.listening(post=_patch(path, leaves[path], at, stream[at])):
                here = float(log_softmax(network.forward(ids)[-1])[token])
            found[row, at] = (here - plain) / whole
    return list(source.stream), found


def _patch(path: str, patched: Any, at: int, vector: np.ndarray) -> Post:
    def post(where: str, layer: Any, y: np.ndarray, cache: Any) -> np.ndarray | None:
        if where != path or layer is not patched:
            return None
        y = y.copy()
        y[at] = vector
        return y

    return post
