"""What a head attends to, measured on text that tells habits apart."""

from collections.abc import Mapping, Sequence
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
    tokens: int | np.ndarray, period: int, rows: int, seed: int = 0, avoid: tuple[int, ...] = ()
) -> np.ndarray:
    """Return rows of random tokens that are repeated once, (rows, 2 · period).

    Parameters
    ----------
    tokens
        Ids to draw from, or the size of the vocabulary for all. What a network has never read
        hides its heads' habits.
    avoid
        Tokens that stand for something else, such as the end of a text.
    """
    known = np.setdiff1d(np.arange(tokens) if isinstance(tokens, int) else tokens, avoid)
    half = known[stream(seed, "repeated").integers(len(known), size=(rows, period))]
    return np.concatenate([half, half], axis=1)


def head_scores(
    network: Network, rows: Sequence[np.ndarray] | np.ndarray
) -> Mapping[str, HeadScores]:
    """Return by path of each attention the scores of its heads, means over the rows.

    Parameters
    ----------
    rows
        From `repeated_tokens`, also of several periods: a head that looks a fixed way back does
        so whatever is repeated, and has the score of one period only. Scores are over the second
        half, where there is something to find; the entropy and the first token are over all
        places but the first.
    """
    sums: dict[str, np.ndarray] = {}
    for row in rows:
        period = len(row) // 2
        second = np.arange(period, 2 * period)
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
