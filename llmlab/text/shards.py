"""Token ids in files that are mapped into memory: more of them than memory holds."""

import json
import os
import secrets
import shutil
import time
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from llmlab.errors import DataError, ResourceError

SHARD = 2**26  # tokens in a file
_INDEX, _DOCUMENTS = "index.json", "documents.npy"
_HEX, _TAG = "[0-9a-f]", 8  # a digit and how many of them a work folder's name ends in
_ABANDONED = 86_400  # seconds after which an unfinished folder is nobody's: a shard takes minutes


class Shards:
    """A sequence of token ids, in one file or several.

    Parameters
    ----------
    arrays
        (N,) each; together they are the sequence.
    documents
        Where each document begins, and where the last one ends.
    about
        What else is known about the text.
    """

    def __init__(
        self,
        arrays: Sequence[NDArray[Any]],
        documents: NDArray[np.int64],
        about: dict[str, Any] | None = None,
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


class ShardWriter:
    """Write token ids to a new folder, which appears under its name when all is written.

    Parameters
    ----------
    folder
        The name; nothing is there yet, and what another process puts there meanwhile is kept.
    dtype
        A type that holds every id.

    Raises
    ------
    ResourceError
        There is no space, or the folder can't be written.
    """

    def __init__(self, folder: Path, dtype: DTypeLike):
        self._folder, self._dtype = folder, np.dtype(dtype)
        self._work = folder.with_name(f".{folder.name}-{secrets.token_hex(_TAG // 2)}")
        self._counts: list[int] = []
        self._documents = array("q", [0])
        self._file: Any = None
        self.total = 0

    def __enter__(self) -> "ShardWriter":
        self._sweep()
        self._try(lambda: self._work.mkdir(parents=True))
        return self

    def append(self, ids: NDArray[Any]) -> None:
        """Write ids (n,)."""
        while len(ids):
            if not self._counts or self._counts[-1] == SHARD:
                self._next()
            part = ids[: SHARD - self._counts[-1]]
            data = part.astype(self._dtype.newbyteorder("<"))
            self._try(lambda data=data: self._file.write(data.tobytes()))
            self._counts[-1] += len(part)
            self.total += len(part)
            ids = ids[len(part) :]

    def end_document(self) -> None:
        """Say that a document ends here."""
        self._documents.append(self.total)

    def finish(self, about: dict[str, Any]) -> None:
        """Write what describes the shards, and give the folder its name."""
        self._close()
        index = {"dtype": self._dtype.str[1:], "shards": self._counts, "about": about}
        documents = np.frombuffer(self._documents, dtype=np.int64)
        self._try(lambda: np.save(self._work / _DOCUMENTS, documents, allow_pickle=False))
        self._try(lambda: (self._work / _INDEX).write_text(json.dumps(index), encoding="utf-8"))
        try:
            self._work.rename(self._folder)
        except OSError as error:
            if not self._folder.is_dir():  # else another process was faster
                raise self._refusal(error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._close()
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what writers left that were killed: folders of such names that nobody touches."""
        hidden = "." + _HEX * len(self._folder.name) + "-" + _HEX * _TAG
        for left in self._folder.parent.glob(hidden):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(left, ignore_errors=True)

    def _next(self) -> None:
        self._close()
        path = self._work / _name(len(self._counts))
        self._file = self._try(lambda: path.open("wb"))
        self._counts.append(0)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            self._try(file.close)

    def _try(self, act: Any) -> Any:
        try:
            return act()
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> ResourceError:
        return ResourceError(
            f"{self._folder.parent}: token ids can't be kept there: {error.strerror or error}; "
            "name another folder with {option}, or with XDG_CACHE_HOME",
            "cache=FOLDER",
        )


def open_shards(folder: Path) -> Shards | None:
    """Return the shards of a folder; None if it isn't there or isn't whole."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        dtype = np.dtype(index["dtype"]).newbyteorder("<")
        documents = np.load(folder / _DOCUMENTS, allow_pickle=False)
        arrays = []
        for n, count in enumerate(index["shards"]):
            path = folder / _name(n)
            if os.path.getsize(path) != count * dtype.itemsize:
                return None
            # A plain array over the map: slicing a memmap object is far slower.
            arrays.append(np.asarray(np.memmap(path, dtype=dtype, mode="r")))
        if documents[0] != 0 or documents[-1] != sum(index["shards"]):
            return None
        return Shards(arrays, documents, index["about"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _name(n: int) -> str:
    return f"{n:05d}.bin"
