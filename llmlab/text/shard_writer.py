"""Write token ids into shards, in a folder that appears when all is written."""

import json
import os
import secrets
import shutil
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from llmlab.atomic_write import sync_folder
from llmlab.errors import ResourceError
from llmlab.text import shards
from llmlab.text.shards import DOCUMENTS, INDEX, checksum, new_hash, shard_name

_HEX, _TAG = "[0-9a-f]", 8  # a digit and how many of them a work folder's name ends in
_ABANDONED = 86_400  # seconds after which an unfinished folder is nobody's: a shard takes minutes


class ShardWriter:
    """Write token ids to a new folder, which appears under its name when all is written.

    What another process puts there meanwhile is kept.
    """

    def __init__(self, folder: Path, dtype: DTypeLike):
        self._folder, self._dtype = folder, np.dtype(dtype)
        self._work = folder.with_name(f".{folder.name}-{secrets.token_hex(_TAG // 2)}")
        self._files: list[tuple[int, str]] = []
        self._count = 0
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
            if self._file is None or self._count == shards.SHARD:
                self._next()
            part = ids[: shards.SHARD - self._count]
            data = part.astype(self._dtype.newbyteorder("<")).tobytes()
            self._try(lambda data=data: self._file.write(data))
            self._digest.update(data)
            self._count += len(part)
            self.total += len(part)
            ids = ids[len(part) :]

    def end_document(self) -> None:
        """Say that a document ends here."""
        self._documents.append(self.total)

    def finish(self, about: dict[str, Any]) -> None:
        """Write what describes the shards, and give the folder its name, durably."""
        self._close()
        documents = np.frombuffer(self._documents, dtype=np.int64).astype("<i8").tobytes()
        index = {
            "name": self._folder.name,
            "dtype": self._dtype.str[1:],
            "shards": self._files,
            "documents": (len(self._documents), checksum(documents)),
            "about": about,
        }
        text = json.dumps(index)
        sealed = json.dumps({"index": text, "blake2b": checksum(text.encode())})
        for name, data in ((DOCUMENTS, documents), (INDEX, sealed.encode())):
            self._file = self._try(lambda name=name: (self._work / name).open("wb"))
            self._try(lambda data=data: self._file.write(data))
            self._sync()
        self._try(lambda: sync_folder(self._work))
        try:
            self._work.rename(self._folder)
            sync_folder(self._folder.parent)
        except OSError as error:
            if not self._folder.is_dir():  # else another process was faster
                raise self._refusal(error) from error

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
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
        path = self._work / shard_name(len(self._files))
        self._file = self._try(lambda: path.open("wb"))
        self._count, self._digest = 0, new_hash()

    def _close(self) -> None:
        """End the shard that is being written."""
        if self._file is not None:
            self._sync()
            self._files.append((self._count, self._digest.hexdigest()))

    def _sync(self) -> None:
        """Make the file durable, and close it."""
        file, self._file = self._file, None
        try:
            self._try(file.flush)
            self._try(lambda: os.fsync(file.fileno()))
        finally:  # on a full disk closing flushes again: the first error is the story
            with suppress(OSError):
                file.close()

    def _try(self, act: Callable[[], Any]) -> Any:
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
