"""Token ids in files that are mapped into memory: more of them than memory holds."""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmlab.errors import DataError
from llmlab.regular_file import open_regular, read_regular

SHARD = 2**26  # tokens in a file
INDEX, DOCUMENTS = "index.json", "documents.bin"
_MAX_INDEX = 2**26  # bytes


class Shards:
    """A sequence of token ids, in one file or several."""

    def __init__(
        self,
        arrays: Sequence[NDArray[Any]],  # (N,) each; together they are the sequence
        documents: NDArray[np.int64],  # where each document begins, and where the last one ends
        about: dict[str, Any] | None = None,  # what else is known about the text
    ):
        self._arrays = list(arrays)
        # Plain integers: a batch looks them up for each of its rows.
        self._starts = list(accumulate(map(len, arrays), initial=0))
        self.documents = documents
        self.about = about or {}

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self._starts[-1]

    def read(self, begin: int, out: NDArray[np.intp]) -> None:
        """Fill `out` (n,) with the ids from `begin` on."""
        done = 0
        shard = bisect_right(self._starts, begin) - 1
        while done < len(out):
            at = begin + done - self._starts[shard]
            part = self._arrays[shard][at : at + len(out) - done]
            out[done : done + len(part)] = part
            done += len(part)
            shard += 1

    def check(self, vocab_size: int, source: object) -> None:
        """Raise `DataError` for an id that the vocabulary hasn't."""
        for start, ids in zip(self._starts, self._arrays, strict=False):
            for begin in range(0, len(ids), SHARD // 64):
                check_ids(ids[begin : begin + SHARD // 64], vocab_size, source, start + begin)


def check_ids(ids: NDArray[Any], vocab_size: int, source: object, begin: int | None = None) -> None:
    """Raise `DataError` for ids outside the vocabulary.

    `begin` is the position of the first, if they follow each other.
    """
    if not len(ids) or (int(ids.min()) >= 0 and int(ids.max()) < vocab_size):
        return
    at = int(np.argmax((ids < 0) | (ids >= vocab_size)))
    where = "" if begin is None else f" at position {begin + at}"
    raise DataError(
        f"{source}: token id {int(ids[at])}{where} is outside the vocabulary of {vocab_size}; the "
        "tokens were made by another tokenizer, or damaged since (then remove them)"
    )


def open_shards(folder: Path) -> Shards | None:
    """Return the shards of a folder; None if it isn't there or not as it was written.

    Every byte is compared with its hash: without it, damage by a bad sector or another program
    would be trained on unnoticed.
    """
    try:
        sealed = json.loads(read_regular(folder / INDEX, _MAX_INDEX))
        if checksum(sealed["index"].encode()) != sealed["blake2b"]:
            return None
        index = json.loads(sealed["index"])
        names = [shard_name(n) for n in range(len(index["shards"]))]
        found = {path.name for path in folder.glob("*.bin")}
        if index["name"] != folder.name or found != {*names, DOCUMENTS}:
            return None
        dtype = np.dtype({"u2": "<u2", "u4": "<u4"}[index["dtype"]])
        arrays = [
            _mapped(folder / name, dtype, *file)
            for name, file in zip(names, index["shards"], strict=True)
        ]
        documents = _mapped(folder / DOCUMENTS, np.dtype("<i8"), *index["documents"])
        with suppress(OSError):
            os.utime(folder)  # when it was used last
        return Shards(arrays, documents, index["about"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _mapped(path: Path, dtype: np.dtype[Any], count: int, digest: str) -> NDArray[Any]:
    """Return a file's numbers; raise `ValueError` if they aren't what was written."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size != count * dtype.itemsize:
            raise ValueError
        # A plain array over the map: slicing a memmap object is far slower.
        numbers = np.asarray(np.memmap(file, dtype=dtype, mode="r"))
    if checksum(numbers) != digest:
        raise ValueError
    return numbers


def new_hash() -> "hashlib.blake2b":
    """Return a hash that tells damage: short, since it isn't against somebody."""
    return hashlib.blake2b(digest_size=16)


def checksum(data: Any) -> str:
    """Return the hash of a buffer."""
    digest = new_hash()
    digest.update(data)
    return digest.hexdigest()


def shard_name(n: int) -> str:
    """Return the name of a shard's file."""
    return f"{n:05d}.bin"
