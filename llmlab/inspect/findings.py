"""What is out of the ordinary in a network that is looked at, in sentences."""

from collections.abc import Iterable, Mapping

import numpy as np

from llmlab.inspect.heads import HeadScores
from llmlab.inspect.lens import Lens, log_softmax
from llmlab.inspect.similarity import sparsity
from llmlab.inspect.trace import NORMS, Trace, tail
from llmlab.layers.residual import Parallel, PreNorm
from llmlab.network import Network

_HABITS = {
    "induction": "looks at what came after the same token a while ago (induction)",
    "duplicate": "looks at the same token, a while ago",
    "previous": "looks at the token before",
}
# Of a head's attention, as a mean over tokens. Induction heads of small networks have 0.2 to 0.5,
# heads without a habit one over the number of tokens; networks of one layer stay below 0.1.
CLEAR = 0.2
_MANY = 0.5  # of the units of a layer
_GROWTH = 100.0
_LARGE = 10.0  # times the median


def habits(scores: Mapping[str, HeadScores]) -> list[str]:
    """Return a sentence for each head with a clear habit, the clearest first."""
    found = []
    for path, each in scores.items():
        for habit, meaning in _HABITS.items():
            for head, score in enumerate(getattr(each, habit)):
                if score >= CLEAR:
                    found.append((score, f"{path}, head {head} {meaning}: {score:.2f}."))
    return [text for _, text in sorted(found, key=lambda pair: -pair[0])]


def troubles(network: Network, found: Trace, readings: Iterable[Lens]) -> list[str]:
    """Return a sentence for each thing that no sound network shows on a text of some length.

    They are clues from one text: a network can be broken in ways that none of them shows.
    """
    if not np.isfinite(found.logits).all():
        broken = [r.path for r in found.records if not np.isfinite(r.y).all()]
        return [f"{broken[0] or 'the network'}: gives numbers that aren't finite."]
    return [
        *_answer(found),
        *_structure(network),
        *_sizes(network),
        *_silent(found),
        *_same(found),
        *_dead(found),
        *_attention(found),
        *_growth(readings),
    ]


def _answer(found: Trace) -> list[str]:
    logs = log_softmax(found.logits)
    entropy = float(-(np.exp(logs) * logs).sum(axis=1).mean())
    uniform = float(np.log(found.logits.shape[1]))
    if entropy > 0.98 * uniform:
        return [
            f"The answer is close to a blind guess everywhere (entropy {entropy:.2f} of "
            f"{uniform:.2f} nats): the network has learned little, or its output is too small."
        ]
    if len(found.ids) > 4 and np.ptp(logs, axis=0).max() < 1e-3:
        return ["The answer is the same at every token: nothing of the text reaches it."]
    return []


def _structure(network: Network) -> list[str]:
    """Norms before each layer leave the sum of all of them without one (Xiong et al. 2020)."""
    leaves = [layer for _, layer in network.stack.leaves()]
    before = any(isinstance(layer, PreNorm | Parallel) for layer in leaves)
    if before and not any(isinstance(layer, NORMS) for _, layer in tail(network)):
        return ["There is no norm between the last block and the output, which pre-norm needs."]
    return []


def _sizes(network: Network) -> list[str]:
    """Return layers whose parameters are far larger than those of all others of their kind."""
    sizes: dict[tuple[str, ...], dict[str, float]] = {}
    for path, layer in network.stack.leaves():
        own = [a for name, a in network.params.items() if name.startswith(f"{path}.")]
        size = float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in own)))
        kind = (type(layer).__name__, path.rpartition(".")[2])
        sizes.setdefault(kind, {})[path] = size
    return [
        f"{path}: its parameters have a norm of {size:,.0f}, those of others like it "
        f"{float(np.median([*each.values()])):,.0f}."
        for each in sizes.values()
        for path, size in each.items()
        if len(each) > 2 and size > _LARGE * float(np.median([*each.values()]))
    ]


def _silent(found: Trace) -> list[str]:
    """Return what gives zeros, though what goes into it isn't all zeros."""
    zero = {r.path for r in found.records if r.path and r.y.size and r.x.any() and not r.y.any()}
    inner = {path for path in zero for other in zero if path.startswith(f"{other}.")}
    return [f"{path}: gives zeros only." for path in sorted(zero - inner)]


def _same(found: Trace) -> list[str]:
    """Return the first layer behind which different tokens are one vector."""
    if len(set(found.ids.tolist())) < 2:
        return []
    for path, stream in found.stream.items():
        if stream.any() and np.ptp(stream, axis=0).max() <= 1e-6 * np.abs(stream).max():
            return [f"{path}: gives every token of the text the same vector."]
    return []


def _dead(found: Trace) -> list[str]:
    sentences = []
    for path, hidden in found.hidden.items():
        _, dead = sparsity(hidden)
        if ".experts." not in path and dead.mean() > _MANY:
            sentences.append(
                f"{path}: {dead.sum()} of {len(dead)} units are dead, they give nothing at any "
                "token of this text."
            )
    return sentences


def _attention(found: Trace) -> list[str]:
    """Return heads that look at one token each, and whether none has learned where to look."""
    length = len(found.ids)
    if length < 8 or not found.maps:
        return []
    sentences = [
        f"{path}, head {head}: all of its attention is on one token each."
        for path, maps in found.maps.items()
        for head, each in enumerate(maps)
        if each[4:].max(axis=1).min() > 0.999
    ]
    rows = np.arange(4, length)
    if all(_even(each, rows) for maps in found.maps.values() for each in maps):
        sentences.append("Every head looks at all tokens alike: none has learned where to look.")
    return sentences


def _even(each: np.ndarray, rows: np.ndarray) -> bool:
    """Return whether each token gets what it would get by chance, within a fifth."""
    return all(each[n].max() < 1.2 / (n + 1) for n in rows)


def _growth(readings: Iterable[Lens]) -> list[str]:
    norms = [float(np.median(each.norm)) for each in readings]  # a first token may be far out
    if norms[0] > 0 and norms[-1] / norms[0] > _GROWTH:
        return [f"The stream grows {norms[-1] / norms[0]:.0f} times from first to last layer."]
    return []
