"""What all ways of choosing tokens share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmlab.errors import ConfigError
from llmlab.registry import Registry

if TYPE_CHECKING:
    from llmlab.generate.decoding import Decoding, Reply

SAMPLERS = Registry("sampler", ("seed", "vocab_size"))


@dataclass(frozen=True)
class Rows:
    """What belongs to each row of logits.

    Attributes
    ----------
    prompts, replies
        Ids given, and ids chosen so far, a sequence for each row.
    stop_ids
        Tokens that end a reply; penalties leave them alone.
    rngs
        A generator for each row, so that its draws don't depend on the other rows; None if
        none were given.
    """

    prompts: Sequence[Sequence[int]]
    replies: Sequence[Sequence[int]]
    stop_ids: frozenset[int] = frozenset()
    rngs: Sequence[np.random.Generator] | None = None


class Sampler(ABC):
    """Choose one token for each row.

    Attributes
    ----------
    num_samples
        How many replies each prompt gets.
    stop
        Texts before which a reply ends. The engine knows no text: who decodes looks for them.
    """

    num_samples: int = 1
    stop: tuple[str, ...] = ()

    @abstractmethod
    def choose(self, logits: np.ndarray, rows: Rows) -> np.ndarray:
        """Return ids (B,) for logits (B, V), which stay as they are."""

    def scores(self, logits: np.ndarray, rows: Rows) -> np.ndarray | None:
        """Return what `choose` takes the first greatest of, (B, V); None if it does otherwise."""
        return None

    def distribution(self, logits: np.ndarray, rows: Rows) -> np.ndarray | None:
        """Return the probabilities (B, V) that `choose` draws from; None if it doesn't say."""
        return None


class Search(ABC):
    """Find whole replies by continuing several beginnings at once.

    Attributes
    ----------
    num_samples, stop
        As in `Sampler`.
    """

    num_samples: int = 1
    stop: tuple[str, ...] = ()

    @abstractmethod
    def search(self, decoding: "Decoding", stop_ids: frozenset[int]) -> "list[Reply]":
        """Return `num_samples` replies to the one prompt of `decoding`, best first."""


Limit = tuple[str, object, Callable[[], bool], str]


def require(limits: Iterable[Limit]) -> None:
    """Raise a `ConfigError` for all arguments (name, value, holds, what is expected) that fail."""
    problems = [
        f"{name}={value}: must be {what}" for name, value, holds, what in limits if not holds()
    ]
    if problems:
        raise ConfigError(problems)


def stop_texts(stop: Sequence[str] | str | None) -> tuple[str, ...]:
    """Return `stop` as a tuple; raise `ConfigError` if one of them is empty."""
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    require([("stop", list(texts), lambda: all(texts), "texts of at least one character")])
    return texts
