"""What no model can learn from its data, however long it trains."""

from collections.abc import Iterable, Sequence
from math import log


def entropy_floor(samples: Iterable[tuple[Sequence[int], Sequence[float]]]) -> float:
    """Return the mean nats per target that equal prefixes leave, the least training loss.

    Where several samples begin alike and go on differently, the best possible prediction is
    the frequency of each continuation. With W(p) the weight of all targets after prefix p and
    w(p, t) that of target t among them, the floor is Σ w(p, t) ln(W(p) / w(p, t)) / Σ w(p, t).

    Parameters
    ----------
    samples
        The ids of each sample and the weights of its targets: `weights[k]` is that of
        predicting `ids[k + 1]` from `ids[:k + 1]`.

    Raises
    ------
    ValueError
        No target has weight.
    """
    # A tree of prefixes: each (node, id) leads to the node of the prefix longer by that id.
    nodes: dict[tuple[int, int], int] = {}
    continuations: dict[int, dict[int, float]] = {}
    for ids, weights in samples:
        node = 0
        for id, target, weight in zip(ids, ids[1:], weights, strict=False):
            node = nodes.setdefault((node, id), len(nodes) + 1)
            if weight:
                counts = continuations.setdefault(node, {})
                counts[target] = counts.get(target, 0.0) + weight
    total = entropy = 0.0
    for counts in continuations.values():
        whole = sum(counts.values())
        total += whole
        entropy += sum(weight * log(whole / weight) for weight in counts.values())
    if not total:
        raise ValueError("no target has weight")
    return entropy / total
