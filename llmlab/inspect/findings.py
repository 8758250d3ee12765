"""What is out of the ordinary in a network that is looked at, in sentences."""

from collections.abc import Iterable, Mapping

import numpy as np

from llmlab.inspect.heads import HeadScores
from llmlab.inspect.lens import Lens, log_softmax
from llmlab.inspect.similarity import sparsity
from llmlab.inspect.trace import Trace

_HABITS = {
    "induction": "looks at what came after the same token a while ago (induction)",
    "duplicate": "looks at the same token, a while ago",
    "previous": "looks at the token before",
}
CLEAR = 0.2  # of a head's attention, as a mean over tokens; without a habit it is one over T
_MANY = 0.5  # of the units of a layer
_GROWTH = 100.0


def habits(scores: Mapping[str, HeadScores]) -> list[str]:
    """Return a sentence for each head with a clear habit, the clearest first."""
    found = []
    for path, each in scores.items():
        for habit, meaning in _HABITS.items():
            for head, score in enumerate(getattr(each, habit)):
                if score >= CLEAR:
                    found.append((score, f"{path}, head {head} {meaning}: {score:.2f}."))
    return [text for _, text in sorted(found, key=lambda pair: -pair[0])]


def troubles(found: Trace, readings: Iterable[Lens]) -> list[str]:
    """Return a sentence for each thing that no sound network shows on a text of some length."""
    if not np.isfinite(found.logits).all():
        broken = [r.path for r in found.records if not np.isfinite(r.y).all()]
        return [f"{broken[0] or 'the network'}: gives numbers that aren't finite."]
    sentences = []
    logs = log_softmax(found.logits)
    entropy = float(-(np.exp(logs) * logs).sum(axis=1).mean())
    uniform = float(np.log(found.logits.shape[1]))
    if entropy > 0.98 * uniform:
        sentences.append(
            f"The answer is close to a blind guess everywhere (entropy {entropy:.2f} of "
            f"{uniform:.2f} nats): the network has learned little, or its output is too small."
        )
    elif len(found.ids) > 4 and np.ptp(logs, axis=0).max() < 1e-3:
        sentences.append("The answer is the same at every token: nothing of the text reaches it.")
    for path, hidden in found.hidden.items():
        _, dead = sparsity(hidden)
        if ".experts." not in path and dead.mean() > _MANY:
            sentences.append(
                f"{path}: {dead.sum()} of {len(dead)} units are dead, they give nothing at any "
                "token of this text."
            )
    for path, maps in found.maps.items():
        sentences += _saturated(path, maps)
    norms = {each.path: float(each.norm.mean()) for each in readings}
    first, last = next(iter(norms.values())), list(norms.values())[-1]
    if first > 0 and last / first > _GROWTH:
        sentences.append(f"The stream grows {last / first:.0f} times from first to last layer.")
    return sentences


def _saturated(path: str, maps: np.ndarray) -> list[str]:
    if maps.shape[1] < 8:
        return []
    sharp = [head for head, each in enumerate(maps) if each[4:].max(axis=1).min() > 0.999]
    return [f"{path}, head {head}: all of its attention is on one token each." for head in sharp]
