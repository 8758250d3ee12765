"""A worker's share of a step as bytes in a pipe."""

import struct
from dataclasses import fields
from typing import BinaryIO

import numpy as np

from llmlab.batch import Batch
from llmlab.train.batch_shards import ShardBatch

_FIELDS = tuple(field.name for field in fields(Batch))


def write_share(sink: BinaryIO, share: ShardBatch) -> None:
    """Write the rows and every array of a batch, absent ones as such."""
    arrays = share.batch.arrays()
    sink.write(struct.pack("<qq", *share.batch.inputs.shape))
    for array in (share.rows, *map(arrays.get, _FIELDS)):
        if array is None:
            sink.write(struct.pack("<2sq", b"--", 0))
        else:
            sink.write(struct.pack("<2sq", array.dtype.str[1:].encode(), array.size))
            sink.write(array.tobytes())


def read_share(source: BinaryIO) -> ShardBatch:
    """Return what `write_share` wrote."""
    shape = struct.unpack("<qq", source.read(16))
    rows, *arrays = (_read_array(source) for _ in range(1 + len(_FIELDS)))
    assert rows is not None
    given = zip(_FIELDS, arrays, strict=True)
    return ShardBatch(Batch(**{n: a.reshape(shape) for n, a in given if a is not None}), rows)


def _read_array(source: BinaryIO) -> np.ndarray | None:
    kind, size = struct.unpack("<2sq", source.read(10))
    if kind == b"--":
        return None
    dtype = np.dtype(kind.decode())
    return np.frombuffer(source.read(size * dtype.itemsize), dtype)
