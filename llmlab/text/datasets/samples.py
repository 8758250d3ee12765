"""Samples kept in memory as flat arrays, from which batches are copied."""

import copy
import hashlib
import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from llmlab.batch import Batch
from llmlab.errors import DataError
from llmlab.streams import stream
from llmlab.text.datasets.base import Dataset, Sample
from llmlab.text.datasets.options import check_place, check_samples
from llmlab.text.datasets.packing import pack
from llmlab.text.templates.base import Message
from llmlab.text.tokenizers import Tokenizer

logger = logging.getLogger("llmlab")

Text = tuple[Sequence[int], Sequence[float]]
_RUNNING = 2  # times max_seq_len: such lines are paragraphs, no samples


class Samples(Dataset):
    """Samples of token ids in memory.

    Arguments of the wrong type or out of range are a ConfigError, texts without any target that
    counts a DataError.

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
    packed
        Whether short samples share a row of up to `max_seq_len` targets. Each is a segment, at
        positions from 0, so that attention stays inside it.
    chats
        The messages of each text, if they are chats.
    tokenizer, unknown_words
        Whose unknown token to count, and the words behind it (read after the texts).
    """

    def __init__(
        self,
        texts: Iterable[Text],
        source: object,
        max_seq_len: int,
        long_lines: str = "split",
        shuffle: bool = True,
        val_fraction: float = 0.0,
        packed: bool = False,
        chats: Sequence[Sequence[Message]] = (),
        tokenizer: Tokenizer | None = None,
        unknown_words: Iterable[str] = (),
    ):
        check_samples(max_seq_len, long_lines, shuffle, val_fraction, packed)
        self.source = str(source)
        self.shuffle = shuffle
        self.val_fraction = val_fraction
        self.packed = packed
        self._max_seq_len = max_seq_len
        names = ("texts", "samples", "tokens", "unknown", "split", "truncated", "dropped")
        self.report = dict.fromkeys(names, 0)
        # Arrays that grow: a list of lists would take ten times the memory.
        all_ids, all_weights = array("i"), array("f")
        unknown = None if tokenizer is None else tokenizer.unknown_id
        offsets, owners, owner = [0], array("q"), -1
        total = 0
        for owner, (ids, weights) in enumerate(texts):
            total += len(ids)
            self.report["unknown"] += sum(id == unknown for id in ids)
            for part, own in self._cut(ids, weights, max_seq_len, long_lines):
                if not any(own[1:]):
                    self.report["dropped"] += 1
                    continue
                all_ids.extend(part)
                all_weights.append(0.0)  # the first id is no target
                all_weights.extend(own[1:])
                offsets.append(len(all_ids))
                owners.append(owner)
        if not owners:
            raise DataError(
                f"{source}: no target to learn from in {owner + 1} texts "
                f"({self.report['dropped']} dropped); give longer texts or a larger max_seq_len"
            )
        self.unknown_words = list(unknown_words)
        self._owners = np.array(owners, dtype=np.intp)
        # Plain integers: indexing a list is several times faster than an array, and each
        # batch does it per row.
        self._offsets: list[int] = offsets
        self._ids: NDArray[np.int32] = np.frombuffer(all_ids, dtype=np.int32)
        self._weights: NDArray[np.float32] = np.frombuffer(all_weights, dtype=np.float32)
        self._index = np.arange(len(owners))
        self._texts = np.unique(self._owners)
        self._all_chats = chats
        self._select()
        self._notify(tokenizer, total // (owner + 1))

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
        """Bring chats, rows and counts in line with the chosen samples."""
        self.chats = [list(self._all_chats[i]) for i in self._texts] if self._all_chats else []
        tokens = sum(int(np.count_nonzero(self._weights[b:e])) for b, e in self._spans())
        self.report |= {"texts": len(self._texts), "samples": len(self), "tokens": tokens}
        index = self._index.tolist()
        self._rows: list[list[int]] = [[sample] for sample in index]
        if self.packed:
            lengths = [end - begin - 1 for begin, end in self._spans()]
            self._rows = [[index[n] for n in row] for row in pack(lengths, self._max_seq_len)]

    def _spans(self) -> list[tuple[int, int]]:
        return [(self._offsets[i], self._offsets[i + 1]) for i in self._index.tolist()]

    def _notify(self, tokenizer: Tokenizer | None, mean: int) -> None:
        counts = self.report
        if counts["unknown"]:
            assert tokenizer is not None
            logger.warning(
                "%s: %d tokens are %s that the vocabulary lacks, read as unknown: %s",
                self.source,
                counts["unknown"],
                tokenizer.unit,
                tokenizer.listed(self.unknown_words),
            )
        advice = ""
        if mean > _RUNNING * self._max_seq_len and not self._all_chats:
            advice = f"; they have {mean:,} tokens on average: read running text with data=text"
        for kind in ("split", "truncated"):
            if counts[kind]:
                logger.warning(
                    "%s: texts over max_seq_len, %s: %d%s", self.source, kind, counts[kind], advice
                )
        if counts["dropped"]:
            logger.warning(
                "%s: %d samples without a target, dropped", self.source, counts["dropped"]
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._index)

    def num_batches(self, batch_size: int) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self._rows) // batch_size)

    def batches(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on."""
        check_place(batch_size, start)
        order = np.arange(len(self._rows))
        if self.shuffle:
            order = stream(seed, "data", epoch).permutation(order)
        for begin in range(start * batch_size, len(order), batch_size):
            numbers = order[begin : begin + batch_size].tolist()
            yield self._batch([self._rows[n] for n in numbers])

    def _batch(self, rows: list[list[int]]) -> Batch:
        offsets = self._offsets
        spans = [[(offsets[n], offsets[n + 1] - 1) for n in row] for row in rows]
        shape = (len(rows), max(sum(end - begin for begin, end in row) for row in spans))
        inputs = np.zeros(shape, dtype=np.intp)
        targets = np.zeros(shape, dtype=np.intp)
        weights = np.zeros(shape, dtype=np.float32)
        # Padding is a segment of its own: nothing of a sample looks at it, nor it at a sample.
        segments = np.full(shape, -1, dtype=np.intp) if self.packed else None
        positions = np.zeros(shape, dtype=np.intp) if self.packed else None
        for i, row in enumerate(spans):
            at = 0
            for number, (begin, end) in enumerate(row):
                to = at + end - begin
                inputs[i, at:to] = self._ids[begin:end]
                targets[i, at:to] = self._ids[begin + 1 : end + 1]
                weights[i, at:to] = self._weights[begin + 1 : end + 1]
                if segments is not None and positions is not None:
                    segments[i, at:to] = number
                    positions[i, at:to] = np.arange(to - at)
                at = to
        return Batch(inputs, targets, weights, segments, positions)

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
        check_samples(1, "split", self.shuffle, fraction, self.packed)
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
