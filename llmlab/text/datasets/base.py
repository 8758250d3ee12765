"""The contract of a dataset: samples, and batches of them in an order that can be resumed."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from llmlab.batch import Batch
from llmlab.registry import Registry
from llmlab.text.templates.base import Message

DATASETS = Registry("dataset", ("tokenizer", "max_seq_len", "template"))

Sample = tuple[tuple[int, ...], tuple[float, ...]]


class Dataset(ABC):
    """Samples of token ids with a weight per target.

    Attributes
    ----------
    shuffle
        Whether each epoch has an order of its own.
    val_fraction
        The share of texts that the configuration wants for validation.
    report
        Counts. Of this part: texts, samples, tokens (targets that count). Of the whole file:
        unknown (tokens that the vocabulary lacks), split and truncated (texts over
        `max_seq_len`), dropped (samples without a target that counts).
    unknown_words
        The words behind `report["unknown"]`, each once, in order.
    chats
        The messages of each text that gave a sample, when they are chats; else empty.
    """

    shuffle: bool
    val_fraction: float
    report: dict[str, int]
    unknown_words: list[str]
    chats: list[list[Message]]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def batches(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on.

        The order is a function of (seed, "data", epoch) alone. The last batch may be smaller.
        """

    def num_batches(self, batch_size: int) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self) // batch_size)

    @abstractmethod
    def samples(self) -> Iterable[Sample]:
        """Return the ids of each sample and the weights of its targets.

        A sample of n ids has n - 1 targets: `weights[k]` is that of predicting `ids[k + 1]`.
        """

    @abstractmethod
    def split(self, fraction: float, seed: int) -> tuple["Dataset", "Dataset | None"]:
        """Return a training and a validation part that share no text; None for fraction 0."""

    def once(self) -> "Dataset":
        """Return the same text with each target exactly once, for measuring."""
        return self

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Return the hash of all ids and weights in order."""
