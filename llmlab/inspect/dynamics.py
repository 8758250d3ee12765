"""How a network has come to be, from the states that were kept of its training."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llmlab.batch import Batch
from llmlab.inspect.ablation import Part, effects, parts_of
from llmlab.inspect.heads import HeadScores, head_scores
from llmlab.inspect.lens import lens, surprise
from llmlab.inspect.similarity import effective_rank, linear_cka, sparsity
from llmlab.inspect.trace import trace
from llmlab.network import Network


class Moment(NamedTuple):
    """What a look at one state has found.

    Attributes
    ----------
    step, loss
        Of the training; nats a token of the text.
    lens, rank
        By path of a layer: nats a token of the reading behind it, and the effective rank of the
        stream there.
    stream
        By path of a layer: the stream, (T, C).
    quiet
        By path of a feed-forward: the share of activations that are nothing.
    scores
        By path of an attention: those of its heads.
    effects
        By part: how much the loss of the batch rises without it, in nats; empty without a batch.
    """

    step: int
    loss: float
    lens: dict[str, float]
    rank: dict[str, float]
    stream: dict[str, np.ndarray]
    quiet: dict[str, float]
    scores: Mapping[str, HeadScores]
    effects: dict[Part, float]


def moment(
    network: Network,
    step: int,
    ids: np.ndarray,
    repeated: Sequence[np.ndarray],
    batch: Batch | None,
) -> Moment:
    """Return a look at one state.

    Parameters
    ----------
    ids
        The text, (T,).
    repeated
        From `repeated_tokens`, for the habits of heads.
    batch
        To measure effects on; None: there are none.
    """
    found = trace(network, ids, shares=False)
    lost = {} if batch is None else effects(network, batch, parts=parts_of(network))
    return Moment(
        step,
        float(surprise(found.logits, found.ids).mean()),
        {each.path: float(each.loss.mean()) for each in lens(network, found)},
        {path: effective_rank(stream) for path, stream in found.stream.items()},
        found.stream,
        {path: sparsity(hidden)[0] for path, hidden in found.hidden.items()},
        head_scores(network, repeated) if len(repeated) else {},
        {part: effect.change for part, effect in lost.items()},
    )


def likeness(moments: list[Moment]) -> tuple[np.ndarray, np.ndarray]:
    """Return linear CKAs of the streams behind the layers.

    Between all layers of the last state, (L, L), and of each state with the last one, layer by
    layer, (moments, L).
    """
    last = list(moments[-1].stream.values())
    layers = np.array([[linear_cka(a, b) for b in last] for a in last])
    states = [
        [linear_cka(a, b) for a, b in zip(each.stream.values(), last, strict=True)]
        for each in moments
    ]
    return layers, np.array(states)
