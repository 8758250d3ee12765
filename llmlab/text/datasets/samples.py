"""Samples kept in memory as flat arrays, from which batches are copied."""

import copy
import hashlib
import logging
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from llmlab.errors import ConfigError, DataError
from llmlab.streams import stream
from llmlab.text.batch import Batch
from llmlab.text.datasets.base import Dataset, Sample

logger = logging.getLogger("llmlab")

Text = tuple[Sequence[int], Sequence[float]]


class Samples(Dataset):
    """Samples of token ids in memory.

    Parameters
    ----------
    texts
        The ids of each text, and the weight of each id as a target (that of the first counts
        for nothing).
    source
        The file, for messages.
    max_seq_len
        The most targets that a sample has.
    long_lines
        What a text with more of them becomes. `split`: pieces that overlap by one id, so that
        each target is there once. `truncate`: its beginning.
    shuffle, val_fraction
        As in `Dataset`.
    pairs
        Prompt and answer of each text, if they are chats.
    unknown_id, unknown_words
        What to count as unknown, and the words behind it.

    Raises
    ------
    ConfigError
        An argument is of the wrong type or out of range.
    DataError
        No sample has a target that counts.
    """

    def __init__(
        self,
        texts: Sequence[Text],
        source: object,
        max_seq_len: int,
        long_lines: str = "split",
        shuffle: bool = True,
        val_fraction: float = 0.0,
        pairs: Sequence[tuple[str, str]] = (),
        unknown_id: int | None = None,
        unknown_words: Sequence[str] = (),
    ):
        _check(max_seq_len, long_lines, shuffle, val_fraction)
        self.source = str(source)
        self.shuffle = shuffle
        self.val_fraction = val_fraction
        self.unknown_words = list(unknown_words)
        names = ("texts", "samples", "tokens", "unknown", "split", "truncated", "dropped")
        self.report = dict.fromkeys(names, 0)
        if unknown_id is not None:
            self.report["unknown"] = sum(list(ids).count(unknown_id) for ids, _ in texts)
        samples: list[Text] = []
        owners: list[int] = []
        for owner, (ids, weights) in enumerate(texts):
            for piece in self._cut(ids, weights, max_seq_len, long_lines):
                if any(piece[1][1:]):
                    samples.append(piece)
                    owners.append(owner)
                else:
                    self.report["dropped"] += 1
        if not samples:
            raise DataError(
                f"{source}: no target to learn from in {len(texts)} texts "
                f"({self.report['dropped']} dropped); give longer texts or a larger max_seq_len"
            )
        offsets = list(accumulate((len(ids) for ids, _ in samples), initial=0))
        self._owners = np.array(owners, dtype=np.intp)
        # Plain integers: indexing a list is several times faster than an array, and each
        # batch does it per row.
        self._offsets: list[int] = offsets
        self._ids: NDArray[np.int32] = np.empty(offsets[-1], dtype=np.int32)
        self._weights: NDArray[np.float32] = np.empty(offsets[-1], dtype=np.float32)
        for begin, end, (ids, weights) in zip(offsets, offsets[1:], samples, strict=False):
            self._ids[begin:end] = ids
            self._weights[begin:end] = weights
            self._weights[begin] = 0  # no target
        self._index = np.arange(len(samples))
        self._texts = np.unique(self._owners)
        self._all_pairs = pairs
        self._select()
        self._notify()

    def _cut(
        self, ids: Sequence[int], weights: Sequence[float], length: int, policy: str
    ) -> Iterator[Text]:
        targets = len(ids) - 1
        if targets <= length:
            yield ids, weights
        elif policy == "truncate":
            self.report["truncated"] += 1
            yield ids[: length + 1], weights[: length + 1]
        else:
            self.report["split"] += 1
            for begin in range(0, targets, length):
                end = begin + length + 1
                yield ids[begin:end], weights[begin:end]

    def _select(self) -> None:
        """Bring pairs and counts in line with the chosen samples."""
        self.pairs = [self._all_pairs[i] for i in self._texts] if self._all_pairs else []
        tokens = sum(int(np.count_nonzero(self._weights[b:e])) for b, e in self._spans())
        self.report |= {"texts": len(self._texts), "samples": len(self), "tokens": tokens}

    def _spans(self) -> list[tuple[int, int]]:
        return [(self._offsets[i], self._offsets[i + 1]) for i in self._index.tolist()]

    def _notify(self) -> None:
        counts = self.report
        if counts["unknown"]:
            words = ", ".join(self.unknown_words[:8]) + (", ..." * (len(self.unknown_words) > 8))
            logger.warning(
                "%s: %d tokens are words that the vocabulary lacks, read as unknown: %s",
                self.source,
                counts["unknown"],
                words,
            )
        for kind in ("split", "truncated"):
            if counts[kind]:
                logger.warning("%s: %d texts over max_seq_len, %s", self.source, counts[kind], kind)
        if counts["dropped"]:
            logger.warning(
                "%s: %d samples without a target, dropped", self.source, counts["dropped"]
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._index)

    def batches(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on."""
        if batch_size < 1 or start < 0:
            raise ValueError(f"batch_size={batch_size}, start={start}: out of range")
        order = self._index
        if self.shuffle:
            order = stream(seed, "data", epoch).permutation(order)
        rows = order.tolist()
        for begin in range(start * batch_size, len(rows), batch_size):
            yield self._batch(rows[begin : begin + batch_size])

    def _batch(self, rows: list[int]) -> Batch:
        offsets = self._offsets
        spans = [(offsets[row], offsets[row + 1] - 1) for row in rows]
        shape = (len(rows), max(end - begin for begin, end in spans))
        inputs = np.zeros(shape, dtype=np.intp)
        targets = np.zeros(shape, dtype=np.intp)
        weights = np.zeros(shape, dtype=np.float32)
        for i, (begin, end) in enumerate(spans):
            length = end - begin
            inputs[i, :length] = self._ids[begin:end]
            targets[i, :length] = self._ids[begin + 1 : end + 1]
            weights[i, :length] = self._weights[begin + 1 : end + 1]
        return Batch(inputs, targets, weights)

    def samples(self) -> list[Sample]:
        """Return the ids of each sample and the weights of its targets."""
        return [
            (tuple(self._ids[b:e].tolist()), tuple(self._weights[b + 1 : e].tolist()))
            for b, e in self._spans()
        ]

    def split(self, fraction: float, seed: int) -> tuple["Samples", "Samples | None"]:
        """Return a training and a validation part that share no text; None for fraction 0.

        Raises `DataError` when a part would be empty.
        """
        _check(1, "split", self.shuffle, fraction)
        if fraction == 0:
            return self, None
        total = len(self._texts)
        count = round(fraction * total)
        if not 0 < count < total:
            part = "validation" if count == 0 else "training"
            raise DataError(
                f"{self.source}: val_fraction={fraction:g} of {total} texts leaves "
                f"{total - count} for training and {count} for validation, so the {part} "
                "split is empty; choose another val_fraction or give more texts"
            )
        order = stream(seed, "validation").permutation(self._texts)
        return self._part(order[count:]), self._part(order[:count])

    def _part(self, texts: NDArray[np.intp]) -> "Samples":
        part = copy.copy(self)
        part.val_fraction = 0.0
        part.report = dict(self.report)
        part._texts = np.sort(texts)
        part._index = self._index[np.isin(self._owners[self._index], texts)]
        part._select()
        return part

    @property
    def sha256(self) -> str:
        """Return the hash of all ids and weights in order."""
        digest = hashlib.sha256()
        for begin, end in self._spans():
            digest.update(np.array([end - begin], dtype="<i8").tobytes())
            digest.update(self._ids[begin:end].astype("<i4").tobytes())
            digest.update(self._weights[begin:end].astype("<f4").tobytes())
        return digest.hexdigest()


def _check(max_seq_len: object, long_lines: object, shuffle: object, val_fraction: object) -> None:
    problems = []
    if not isinstance(max_seq_len, int) or isinstance(max_seq_len, bool) or max_seq_len < 1:
        problems.append(f"max_seq_len={max_seq_len!r}: expected a whole number from 1")
    if long_lines not in ("split", "truncate"):
        problems.append(f"long_lines={long_lines!r}: expected split or truncate")
    if not isinstance(shuffle, bool):
        problems.append(f"shuffle={shuffle!r}: expected true or false")
    number = val_fraction if isinstance(val_fraction, int | float) else -1
    if isinstance(val_fraction, bool) or not 0 <= number < 1:
        problems.append(f"val_fraction={val_fraction!r}: expected a number from 0 to below 1")
    if problems:
        raise ConfigError(problems)
