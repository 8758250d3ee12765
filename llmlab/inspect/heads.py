"""What a head attends to, measured on text that tells habits apart."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from llmlab.inspect.trace import trace
from llmlab.network import Network
from llmlab.streams import stream


class HeadScores(NamedTuple):
    """Mean attention of the heads of one layer, each (H,), from 0 to 1.

    Attributes
    ----------
    previous
        To the token before.
    duplicate
        To the same token, a period before.
    induction
        To the token behind that one, which is what comes next (Olsson et al. 2022,
        arXiv:2209.11895).
    first
        To the first token of the text.
    entropy
        Of the attention, in nats.
    """

    previous: np.ndarray
    duplicate: np.ndarray
    induction: np.ndarray
    first: np.ndarray
    entropy: np.ndarray


def repeated_tokens(
    vocab_size: int, period: int, rows: int, seed: int = 0, avoid: tuple[int, ...] = ()
) -> np.ndarray:
    """Return rows of random tokens that are repeated once, (rows, 2 · period).

    `avoid` are tokens that stand for something else, such as the end of a text.
    """
    known = np.setdiff1d(np.arange(vocab_size), avoid)
    half = known[stream(seed, "repeated").integers(len(known), size=(rows, period))]
    return np.concatenate([half, half], axis=1)


def head_scores(network: Network, rows: np.ndarray) -> Mapping[str, HeadScores]:
    """Return by path of each attention the scores of its heads, means over the rows.

    Parameters
    ----------
    rows
        From `repeated_tokens`. Scores are over the second half, where there is something to
        find; the entropy and the first token are over all places but the first.
    """
    period = rows.shape[1] // 2
    second = np.arange(period, 2 * period)
    sums: dict[str, np.ndarray] = {}
    for row in rows:
        for path, maps in trace(network, row, shares=False).maps.items():
            with np.errstate(divide="ignore", invalid="ignore"):
                logs = np.where(maps > 0, maps * np.log(maps), 0.0)
            found = np.stack(
                [
                    maps[:, second, second - 1].mean(axis=1),
                    maps[:, second, second - period].mean(axis=1),
                    maps[:, second, second - period + 1].mean(axis=1),
                    maps[:, 1:, 0].mean(axis=1),
                    -logs.sum(axis=2)[:, 1:].mean(axis=1),
                ]
            )
            sums[path] = sums.get(path, 0.0) + found / len(rows)
    return {path: HeadScores(*found) for path, found in sums.items()}
