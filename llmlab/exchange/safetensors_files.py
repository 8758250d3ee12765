"""Tensors in safetensors files, one or several with an index.

Read by hand: the format is a length, a JSON header and the bytes; BF16, which NumPy lacks, would
need the bytes anyway. Every claim of a header is compared with the file before memory is asked
for. Written by the library.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llmlab.errors import CheckpointError, MissingPackage, ResourceError
from llmlab.exchange.files import opened, parse_object, read_object

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MOST_HEADER = 100_000_000  # the library's own limit
_MOST_DIMENSIONS = 8
# Numbers, and what transformers 4 stored as buffers; those are named but never read.
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_SIZES |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a folder, read one by one when asked for.

    Half-precision ones come as float32, which holds them exactly.
    """

    def __init__(self, entries: dict[str, Entry]):
        self.entries = entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.entries[name]
        where = f"{entry.file}: {name}"
        if entry.dtype not in _FLOATS:
            raise CheckpointError(f"{where}: {entry.dtype}, expected one of {', '.join(_FLOATS)}")
        raw = np.empty(entry.shape, _FLOATS[entry.dtype])
        with opened(entry.file) as (file, _):
            file.seek(entry.offset)
            if file.readinto(raw.reshape(-1).view(np.uint8)) != raw.nbytes:  # type: ignore
                raise CheckpointError(f"{where}: the file became shorter")
        if entry.dtype == "BF16":
            array = (raw.astype(np.uint32) << 16).view(np.float32)
        else:
            array = raw.astype(np.float64 if entry.dtype == "F64" else np.float32, copy=False)
        if not np.isfinite(array).all():
            raise CheckpointError(f"{where}: holds NaN or infinity")
        return array


def find_tensors(folder: Path) -> Tensors:
    """Return the tensors of a folder, from its only file or from those of its index."""
    if (folder / WHOLE).exists():
        return Tensors(_header(folder / WHOLE))
    if (folder / INDEX).exists():
        return Tensors(_sharded(folder))
    pickled = next((p.name for p in folder.glob("*.bin")), None)
    if pickled:
        raise CheckpointError(
            f"{folder}: only {pickled}, a pickle, which could run code; save it with "
            "transformers as safetensors: model.save_pretrained(DIR)"
        )
    raise CheckpointError(f"{folder}: neither {WHOLE} nor {INDEX} in it")


def read_file(path: Path) -> Tensors:
    """Return the tensors of one file; raise `CheckpointError` if its header is damaged."""
    return Tensors(_header(path))


def _sharded(folder: Path) -> dict[str, Entry]:
    index = folder / INDEX
    placed = read_object(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{index}: no weight_map in it")
    for name in placed.values():
        # Only names of this folder: no path leads out of it.
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or "\0" in name:
            raise CheckpointError(f"{index}: {name!r:.80} is no file of this folder")
        if not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: {name!r:.80} isn't called *.safetensors")
    entries: dict[str, Entry] = {}
    for name in sorted(set(placed.values())):
        for tensor, entry in _header(folder / name).items():
            if placed.get(tensor) != name:
                raise CheckpointError(
                    f"{folder / name}: {tensor} isn't said to be there by {INDEX}"
                )
            entries[tensor] = entry
    missing = sorted(placed.keys() - entries.keys())
    if missing:
        raise CheckpointError(f"{index}: {missing[0]} isn't in {placed[missing[0]]}")
    return entries


def _header(path: Path) -> dict[str, Entry]:
    with opened(path) as (file, size):
        return _entries(path, file, size)


def _entries(path: Path, file: BinaryIO, size: int) -> dict[str, Entry]:
    """Return what a file's header lists, after comparing all of it with the file's size."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MOST_HEADER):
        raise CheckpointError(
            f"{path}: damaged: a header of {length:,} bytes in a file of {size:,}"
        )
    header = parse_object(file.read(length), f"{path}: the header")
    header.pop("__metadata__", None)
    start, entries, ranges = 8 + length, {}, []
    for name, said in header.items():
        dtype, shape, (begin, end) = _claim(path, name, said)
        if end - begin != prod(shape) * _SIZES[dtype]:
            raise CheckpointError(f"{path}: {name:.80}: {end - begin} bytes for {dtype} {shape}")
        ranges.append((begin, end, name))
        entries[name] = Entry(path, dtype, shape, start + begin)
    at = 0
    for begin, end, name in sorted(ranges):
        if begin != at:
            raise CheckpointError(f"{path}: {name:.80}: begins at {begin:,}, expected {at:,}")
        at = end
    if start + at != size:
        raise CheckpointError(f"{path}: damaged: {size:,} bytes, its tensors need {start + at:,}")
    return entries


def _claim(path: Path, name: str, said: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Return dtype, shape and byte range of one tensor, each of the right kind."""
    if isinstance(said, dict) and said.keys() == {"dtype", "shape", "data_offsets"}:
        dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _SIZES:
            raise CheckpointError(
                f"{path}: {name:.80}: dtype {dtype!r:.40}, which llmlab can't read"
            )
        lists = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
        if (
            lists
            and len(shape) <= _MOST_DIMENSIONS
            and all(type(n) is int and n >= 0 for n in (*shape, *offsets))
        ):
            return dtype, tuple(shape), (offsets[0], offsets[1])
    raise CheckpointError(f"{path}: {name:.80}: its entry in the header is damaged")


def write_tensors(
    folder: Path, tensors: Mapping[str, np.ndarray], shard_bytes: int
) -> dict[str, Any] | None:
    """Write tensors in C order into one file, or into shards; return the index of the shards."""
    shards: list[dict[str, np.ndarray]] = [{}]
    room = shard_bytes
    for name, tensor in tensors.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    if len(shards) == 1:
        write_file(shards[0], folder / WHOLE)
        return None
    placed = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(shard, folder / file)
        placed |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    return {"metadata": {"total_size": total}, "weight_map": placed}


def write_file(tensors: dict[str, np.ndarray], path: Path) -> None:
    """Write one file; errors as in `write_tensors`."""
    # The library writes the memory as it lies, whatever the strides say.
    assert all(tensor.flags.c_contiguous for tensor in tensors.values())
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file
    except ImportError:
        raise MissingPackage("phase=export", "safetensors", "hf") from None
    try:
        save_file(tensors, path, metadata={"format": "pt"})
        mask = os.umask(0)  # which can only be read by setting it
        os.umask(mask)
        path.chmod(0o666 & ~mask)  # the library's 0600 would keep the file from others
    except SafetensorError as error:  # a full disk is one, not an OSError
        raise ResourceError(f"{path.parent}: cannot be written: {error}") from error
