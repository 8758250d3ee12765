"""From the ids of one text to pieces of text, as they can be said, with log probabilities."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np

from llmlab.phases.answering import before_stops, settled
from llmlab.text import Tokenizer


@dataclass(frozen=True)
class TokenLog:
    """A token with ln p, those of the most probable tokens, and where its text begins."""

    id: int
    log: float | None
    top: list[tuple[int, float]]
    offset: int


@dataclass(frozen=True)
class Piece:
    """What has been said since the last piece, and the tokens that came meanwhile."""

    text: str
    tokens: list[TokenLog] = field(default_factory=list)


class Speech:
    """The text of ids that come one by one."""

    def __init__(
        self,
        text_of: Callable[[Sequence[int]], str],  # what ids say
        stops: Sequence[str],  # texts before which it ends
        strip: bool,  # whether white space around it is left out
        # How many of the most probable tokens are noted; None: no probabilities at all
        top: int | None,
        # Whether somebody reads along; else the text is made at the end alone, if it can be
        live: bool = True,
    ):
        self._live = live or bool(stops) or top is not None
        self._text_of, self._stops = text_of, tuple(stops)
        self._strip, self._top = strip, top
        self._ids: list[int] = []
        self._said, self._tokens = "", []
        # What was said and not yet fetched; filled by one thread, emptied by another.
        self.pieces: deque[Piece] = deque()
        self.text = ""  # the whole, at the end

    def hear(self, token: int, logits: np.ndarray) -> bool:
        """Take a token and its logits (V,); tell whether a stop text has come."""
        self._ids.append(token)
        if not self._live:
            return False
        if self._top is not None:
            offset = len(self._said)
            self._tokens.append(token_log(token, logits, self._top, offset))
        text = self._text_of(self._ids)
        if any(stop in text for stop in self._stops):
            return True
        now = settled(text, self._stops, self._strip)
        # A later token may join or part what came before; then the rest follows at the end.
        self._say(now[len(self._said) :] if now.startswith(self._said) else "")
        return False

    def end(self) -> None:
        """Say what was held back, and keep the whole as `text`."""
        text = before_stops(self._text_of(self._ids), self._stops)
        self.text = text.strip() if self._strip else text
        pairs = zip(self._said, self.text, strict=False)
        self._say(self.text[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) :])

    def _say(self, new: str) -> None:
        if new or self._tokens:
            self.pieces.append(Piece(new, self._tokens))
            self._said, self._tokens = self._said + new, []


def token_log(token: int, logits: np.ndarray, top: int, offset: int) -> TokenLog:
    """Return ln p of a token, and of the `top` most probable ones, from logits (V,)."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    count = min(top, len(scores))
    best = np.argsort(-scores, kind="stable")[:count].tolist() if count else []
    return TokenLog(
        token, _finite(scores[token]), [(id, _finite(scores[id])) for id in best], offset
    )


def prompt_logs(ids: Sequence[int], logits: np.ndarray, top: int, text: Any) -> list[TokenLog]:
    """Return the logs of a prompt's tokens from its logits (T, V); nothing predicts the first.

    `text(ids)` is what ids decode to, for the offsets.
    """
    logs = [TokenLog(ids[0], None, [], 0)]
    for n, token in enumerate(ids[1:], 1):
        logs.append(token_log(token, logits[n - 1], top, len(text(ids[:n]))))
    return logs


def following(tokenizer: Tokenizer, prompt: Sequence[int]) -> Callable[[Sequence[int]], str]:
    """Return what tells the text that ids add to a prompt, the space between both with it."""
    if tokenizer.lossless:
        return tokenizer.continuation
    before = tokenizer.decode(prompt)

    def text_of(ids: Sequence[int]) -> str:
        whole = tokenizer.decode([*prompt, *ids])
        return whole[len(before) :] if whole.startswith(before) else tokenizer.continuation(ids)

    return text_of


def _finite(log: float) -> float:
    """Return ln p as JSON can hold it."""
    return float(max(log, -9999.0)) if log == log else -9999.0
