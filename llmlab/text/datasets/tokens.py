"""Token ids that somebody has made already."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmlab.errors import ConfigError, DataError
from llmlab.text.datasets.base import DATASETS
from llmlab.text.datasets.options import choice_problems
from llmlab.text.datasets.windows import Windows
from llmlab.text.files import TextFile
from llmlab.text.paths import Paths, expand, named
from llmlab.text.shards import Shards
from llmlab.text.tokenizers import Tokenizer

_TYPES = ("uint16", "uint32", "uint64")
_TELLING = 4  # numbers from which on their type can be told
_CHUNK = 2**20


@DATASETS.register("tokens")
def tokens(
    path: Paths,
    tokenizer: Tokenizer,
    max_seq_len: int,
    windows: str = "random",
    val_fraction: float = 0.1,
    stride: int | None = None,
    dtype: str = "uint16",
) -> Windows:
    """Return windows of token ids from `.npy` files, or from files of bare numbers.

    Bare numbers are little-endian, of type `dtype` (uint16, uint32, uint64, int32 or int64).
    The tokenizer has to be the one that made them; ids outside its vocabulary are refused, and
    numbers that another type fits better. Each file is a document. See `Windows` for the
    other options.
    """
    if problems := choice_problems("dtype", dtype, (*_TYPES, "int32", "int64")):
        raise ConfigError(problems)
    files = expand(path)
    digest = hashlib.sha256("".join(TextFile(file).sha256() for file in files).encode())
    arrays = [_mapped(file, dtype, tokenizer.vocab_size) for file in files]
    bounds = np.cumsum([0, *map(len, arrays)])
    shards = Shards(arrays, bounds)
    shards.check(tokenizer.vocab_size, named(path))
    return Windows(
        shards,
        named(path),
        digest.hexdigest(),
        tokenizer.vocab_size,
        max_seq_len,
        windows,
        val_fraction,
        stride,
    )


def _mapped(path: Path, dtype: str, vocab_size: int) -> NDArray[Any]:
    if path.suffix.lower() != ".npy":
        _refuse_another_type(path, np.dtype(dtype), vocab_size)
    try:
        if path.suffix.lower() == ".npy":
            array = np.lib.format.open_memmap(path, mode="r")  # no archive, no pickle
        else:
            array = np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a file of token ids: {error}") from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"{path}: expected one row of whole numbers, found {array.dtype} of shape {array.shape}"
        )
    return np.asarray(array)


def _refuse_another_type(path: Path, dtype: np.dtype[Any], vocab_size: int) -> None:
    """Raise `DataError` if bare numbers are of another type than `dtype`, and say of which.

    The widest type in which all are ids of the vocabulary is right: read as a narrower one,
    every second number would be 0, and as a wider one they would be far too large.
    """
    size = path.stat().st_size
    widest = next((n for n in reversed(_TYPES) if _fits(path, np.dtype(n), vocab_size)), None)
    if widest is not None and np.dtype(widest).itemsize == dtype.itemsize:
        return
    if widest is not None:
        raise DataError(
            f"{path}: its numbers aren't of type {dtype}, since all are ids of the vocabulary when "
            "read as {option}; set that",
            f"dtype={widest}",
        )
    if size % dtype.itemsize:
        raise DataError(
            f"{path}: not a file of token ids: {size} bytes are no multiple of the "
            f"{dtype.itemsize} of one {dtype}; it is cut off, or of another type: set {{option}}",
            f"dtype={' or '.join(_TYPES)}",
        )
    for name in _TYPES:
        if _fits(path, np.dtype(name).newbyteorder(">"), vocab_size):
            raise DataError(
                f"{path}: its numbers are big-endian {name}, and little-endian is what is read; "
                f"save them as .npy, or with array.astype('<u{np.dtype(name).itemsize}')"
            )


def _fits(path: Path, dtype: np.dtype[Any], vocab_size: int) -> bool:
    """Tell whether a file's numbers, not all 0, are ids when read as `dtype`.

    False where that tells nothing, since every number of this type is below `vocab_size`.
    """
    count, rest = divmod(path.stat().st_size, dtype.itemsize)
    if rest or count < _TELLING or vocab_size >= 256**dtype.itemsize:
        return False
    ids, largest = np.memmap(path, dtype=dtype, mode="r"), 0
    for begin in range(0, count, _CHUNK):
        largest = max(largest, int(ids[begin : begin + _CHUNK].max()))
        if largest >= vocab_size:
            return False
    return largest > 0
