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

    Bare numbers are little-endian, of type `dtype` (uint16, uint32 or int32). The tokenizer has
    to be the one that made them; ids outside its vocabulary are refused. Each file is a
    document. See `Windows` for the other options.
    """
    if problems := choice_problems("dtype", dtype, ("uint16", "uint32", "int32")):
        raise ConfigError(problems)
    files = expand(path)
    digest = hashlib.sha256("".join(TextFile(file).sha256() for file in files).encode())
    arrays = [_mapped(file, dtype) for file in files]
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


def _mapped(path: Path, dtype: str) -> NDArray[Any]:
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
