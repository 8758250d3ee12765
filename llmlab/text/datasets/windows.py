"""Windows of a long sequence of tokens, which may lie on the disk."""

import copy
import hashlib
import json
import logging
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from llmlab.batch import Batch
from llmlab.errors import ConfigError, DataError
from llmlab.text.datasets.base import Dataset, Sample
from llmlab.text.datasets.options import (
    check_place,
    choice_problems,
    fraction_problems,
    size_problems,
)
from llmlab.text.datasets.orders import Order, drawn, in_turn, shuffled
from llmlab.text.datasets.parts import Part, split_documents
from llmlab.text.shards import Shards, check_ids

logger = logging.getLogger("llmlab")


class Windows(Dataset):
    """Windows of `max_seq_len` targets.

    Parameters
    ----------
    shards
        The tokens.
    source
        What they are made of, for messages.
    key
        A hash of the tokens.
    vocab_size
        What every id must be below.
    windows
        `random`: windows at random places, as many in an epoch as the tokens would fill.
        `shuffled`: each target once an epoch, the windows side by side, in random order.
        `sequential`: the same in the order of the text.
    val_fraction
        As in `Dataset`.
    stride
        How far one window begins after the other where each target counts once; null: side by
        side. With less, a target has at least `max_seq_len - stride` tokens before it.
    isolate
        The end token's id, if attention shall stay inside a document; else None.
    """

    def __init__(
        self,
        shards: Shards,
        source: str,
        key: str,
        vocab_size: int,
        max_seq_len: int,
        windows: str = "random",
        val_fraction: float = 0.0,
        stride: int | None = None,
        isolate: int | None = None,
    ):
        _check(max_seq_len, windows, val_fraction, stride)
        self._shards, self.source, self._key = shards, source, key
        self._vocab_size, self._time, self._isolate = vocab_size, max_seq_len, isolate
        self._stride = stride
        self.windows, self.val_fraction = windows, val_fraction
        self.unknown_words: list[str] = []
        self.chats = []
        unknown = int(shards.about.get("unknown", 0))
        if unknown:
            logger.warning(
                "%s: %d of %d tokens are of text that the vocabulary lacks, read as unknown",
                source,
                unknown,
                len(shards),
            )
        self.report = {"unknown": unknown, "split": 0, "truncated": 0, "dropped": 0}
        self._step = max_seq_len
        whole = np.array([[0, len(shards)]])
        self._select(Part(whole, len(shards.documents) - 1))

    @property
    def shuffle(self) -> bool:  # type: ignore[override]
        """Whether each epoch has an order of its own."""
        return self.windows != "sequential"

    def _select(self, part: Part) -> None:
        """Take the tokens of a part, as if its ranges followed each other."""
        self._part, self.length = part, part.tokens
        # Plain integers: a batch looks them up for each of its rows.
        self._ranges = part.ranges.tolist()
        self._starts = list(accumulate((end - begin for begin, end in self._ranges), initial=0))
        if self.length < 2:
            raise DataError(
                f"{self.source}: {self.length} tokens; at least 2 are needed, one to predict "
                "from and one to predict"
            )
        self.report |= {"texts": part.documents, "samples": len(self), "tokens": self.length - 1}

    def __len__(self) -> int:
        """Return the number of windows in an epoch."""
        rest = max(0, self.length - 1 - self._time)
        return 1 + -(-rest // self._step)

    def batches(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on."""
        check_place(batch_size, start)
        count = len(self)
        order = self._order(seed, epoch)
        for begin in range(start * batch_size, count, batch_size):
            indices = np.arange(begin, min(begin + batch_size, count))
            yield self._batch(order(indices))

    def _order(self, seed: int, epoch: int) -> Order:
        """Return the function from the number of a window to where it begins."""
        if self.windows == "random":
            return drawn(max(1, self.length - self._time), seed, epoch)
        turn = in_turn if self.windows == "sequential" else shuffled(len(self), seed, epoch)
        return lambda indices: turn(indices) * self._step

    def _batch(self, begins: NDArray[np.int64]) -> Batch:
        lengths = np.minimum(self._time, self.length - 1 - begins)
        time = int(lengths.max())
        ids = np.zeros((len(begins), time + 1), dtype=np.intp)
        for row, begin, length in zip(ids, begins.tolist(), lengths.tolist(), strict=True):
            self.read(begin, row[: length + 1])
        check_ids(ids.reshape(-1), self._vocab_size, self.source)
        used = np.arange(time) < lengths[:, None]
        weights = used.astype(np.float32)
        if self._step < self._time:
            # Windows overlap: what the one before has counted doesn't count again.
            again = np.where(begins > 0, self._time - self._step, 0)
            weights *= np.arange(time) >= again[:, None]
        inputs = np.where(used, ids[:, :-1], 0)
        targets = np.ascontiguousarray(ids[:, 1:])
        if self._isolate is None:
            return Batch(inputs, targets, weights)
        return Batch(inputs, targets, weights, *_documents(inputs, used, self._isolate))

    def read(self, begin: int, out: NDArray[np.intp]) -> None:
        """Fill `out` (n,) with the ids from number `begin` of this part on."""
        done = 0
        part = bisect_right(self._starts, begin) - 1
        while done < len(out):
            first, last = self._ranges[part]
            at = first + begin + done - self._starts[part]
            count = min(last - at, len(out) - done)
            self._shards.read(at, out[done : done + count])
            done += count
            part += 1

    def samples(self) -> Iterator[Sample]:
        """Yield the windows with each target once."""
        for batch in self.once().batches(1, 0, 0):
            count = int(batch.targets.shape[1])
            ids = (*batch.inputs[0].tolist(), int(batch.targets[0, -1]))
            yield ids, tuple(batch.weights[0, :count].tolist())

    def once(self) -> "Windows":
        """Return the same text in the order of its windows, each target once."""
        other = copy.copy(self)
        other.windows, other.report = "sequential", dict(self.report)
        other._step = min(self._stride or self._time, self._time)
        other._select(self._part)
        return other

    def split(self, fraction: float, seed: int) -> tuple["Windows", "Windows | None"]:
        """Return a training and a validation part; None for fraction 0.

        Of several documents some are drawn, until they hold about `fraction` of the tokens; of
        a single one the end is taken. The validation part has each target once, in order.
        """
        if problems := fraction_problems(fraction):
            raise ConfigError(problems)
        if fraction == 0:
            return self, None
        parts = split_documents(self._shards.documents, fraction, seed)
        sizes = [part.tokens for part in parts]
        if min(sizes) < 2:
            raise DataError(
                f"{self.source}: val_fraction={fraction:g} of {self.length} tokens leaves "
                f"{sizes[0]} for training and {sizes[1]} for validation; at least 2 each are "
                "needed: choose another val_fraction or give more text"
            )
        found = []
        for part in parts:
            own = copy.copy(self)
            own.val_fraction, own.report = 0.0, dict(self.report)
            own._select(part)
            found.append(own)
        return found[0], found[1].once()

    @property
    def sha256(self) -> str:
        """Return the hash of the tokens and of how they are cut."""
        whole = [self._key, self._ranges, self._time, self.windows, self._isolate]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _documents(
    inputs: NDArray[np.intp], used: NDArray[np.bool_], end_id: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return segments and positions (B, T): each end token is the last of its document."""
    ends = inputs == end_id
    segments = np.cumsum(ends, axis=1) - ends
    columns = np.arange(inputs.shape[1])
    first = np.zeros_like(inputs)
    first[:, 1:] = np.where(ends[:, :-1], columns[1:], 0)
    positions = columns - np.maximum.accumulate(first, axis=1)
    return np.where(used, segments, -1), np.where(used, positions, 0)


def _check(max_seq_len: object, windows: object, val_fraction: object, stride: object) -> None:
    problems = [
        *size_problems("max_seq_len", max_seq_len),
        *choice_problems("windows", windows, ("random", "shuffled", "sequential")),
        *fraction_problems(val_fraction),
        *([] if stride is None else size_problems("stride", stride)),
    ]
    if problems:
        raise ConfigError(problems)
