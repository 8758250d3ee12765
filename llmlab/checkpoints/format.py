"""The bytes of a checkpoint: a stored npz with a sealed manifest (docs/checkpoint-format.md).

Nothing in the file is believed before it is checked: the seal covers the manifest, the manifest
covers the name, dtype, shape and content of every array, and sizes are compared with the file
before memory is asked for. NumPy's own reader isn't used: one flipped bit in the shape of its
header loads without an error.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import numpy as np

FORMAT = 3
MANIFEST = "manifest"
SEAL = "manifest.sha256"
DTYPES = frozenset(
    ("<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "|b1")
)
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # zip can't say less, and a real time would change the bytes
_MAX_DIMENSIONS = 32  # what the oldest supported NumPy can hold
_CHUNK = 1 << 20
_HASHERS = 2


class Damaged(Exception):
    """The bytes aren't a sound checkpoint; the message says why, without the file's name."""


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write `arrays` and `meta` to an open file; the same state gives the same bytes.

    What can't be stored is a ValueError or a TypeError.
    """
    stored = {name: _storable(name, arrays[name]) for name in sorted(arrays)}
    json_meta = _plain(meta, "meta")
    with (
        ThreadPoolExecutor(_HASHERS) as pool,  # hashing and writing release the GIL
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        hashes = [pool.submit(_sha256, array) for array in stored.values()]
        for name, array in stored.items():
            _write_member(archive, name, array)
        manifest = {
            "format": FORMAT,
            "arrays": {
                name: {
                    "dtype": array.dtype.str,
                    "shape": list(array.shape),
                    "sha256": sha256.result(),
                }
                for (name, array), sha256 in zip(stored.items(), hashes, strict=True)
            },
            "meta": json_meta,
        }
        text = json.dumps(manifest, sort_keys=True, allow_nan=False, separators=(",", ":"))
        data = np.frombuffer(text.encode(), np.uint8)
        seal = np.frombuffer(bytes.fromhex(_sha256(data)), np.uint8)
        _write_member(archive, MANIFEST, data)
        _write_member(archive, SEAL, seal)


def read(file: BinaryIO, size: int) -> tuple[int, dict[str, np.ndarray], dict[str, Any]]:
    """Read a checkpoint of `size` bytes: its format, its arrays and its meta.

    What is wrong is `Damaged`, or another exception of the zip and JSON readers.
    """
    with zipfile.ZipFile(file) as archive:
        members = _members(archive, file, size)
        manifest = _read_manifest(archive, members)
        declared = {
            name: _declared(name, entry, members) for name, entry in manifest["arrays"].items()
        }
        strangers = members.keys() - declared.keys() - {MANIFEST, SEAL}
        if strangers:
            raise Damaged(f"it holds {sorted(strangers)[0]!r}, which its manifest doesn't list")
        arrays = {
            name: _read_member(archive, members[name], dtype, shape)
            for name, (dtype, shape) in declared.items()
        }
    with ThreadPoolExecutor(_HASHERS) as pool:
        hashes = dict(zip(arrays, pool.map(_sha256, arrays.values()), strict=True))
    for name, sha256 in hashes.items():
        if sha256 != manifest["arrays"][name]["sha256"]:
            raise Damaged(f"the content of {name!r} isn't what its sha256 says")
    return manifest["format"], arrays, manifest["meta"]


def read_manifest(file: BinaryIO, size: int) -> dict[str, Any]:
    """Read and check the manifest alone: {"format", "arrays", "meta"}. Raises as `read`."""
    with zipfile.ZipFile(file) as archive:
        return _read_manifest(archive, _members(archive, file, size))


def _storable(name: str, array: np.ndarray) -> np.ndarray:
    if not _good_name(name):
        raise ValueError(f"{name!r} can't be the name of a stored array")
    little = array.dtype.newbyteorder("<")
    if little.str not in DTYPES:
        raise TypeError(f"{name}: {array.dtype} can't be stored")
    return np.asarray(array, little, order="C")  # unlike ascontiguousarray, it keeps 0-d


def _good_name(name: str) -> bool:
    """Tell whether `name` means the same to us, to zip, to a path and to np.load."""
    parts = name.split("/")
    return (
        name not in (MANIFEST, SEAL)
        and name.isprintable()
        and "\\" not in name
        and not name.endswith(".npy")  # np.load would take "a.npy" for "a"
        and all(part.strip(". ") for part in parts)
    )


def _plain(value: Any, where: str) -> Any:
    """Return `value` as JSON will give it back; JSON alone would turn the key 1 into "1"."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where}: the key {key!r} isn't a string")
        return {key: _plain(each, f"{where}.{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, where) for each in value]
    return value


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(_bytes(array)).hexdigest()


def _bytes(array: np.ndarray) -> memoryview:
    """View the bytes of a C-ordered array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the one npy header that we write, on any NumPy, for `dtype` and `shape`."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}"
    padded = -(-(10 + len(text) + 1) // 64) * 64
    text = text.ljust(padded - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def _write_member(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    info = zipfile.ZipInfo(f"{name}.npy", _EARLIEST)
    info.create_system = 3
    info.external_attr = 0o600 << 16
    with archive.open(info, "w", force_zip64=True) as member:
        member.write(_npy_header(array.dtype.str, array.shape))
        data = _bytes(array)
        for start in range(0, len(data), _CHUNK):  # CRC, then write, while it is in the cache
            member.write(data[start : start + _CHUNK])


def _members(archive: zipfile.ZipFile, file: BinaryIO, size: int) -> dict[str, zipfile.ZipInfo]:
    members = {}
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ~0x800:
            raise Damaged(f"{info.filename!r} is compressed or encrypted")
        if info.compress_size != info.file_size:
            raise Damaged(f"{info.filename!r} has two sizes")
        file.seek(info.header_offset + 14)  # zipfile ignores this copy: two files may be mixed
        if int.from_bytes(file.read(4), "little") != info.CRC:
            raise Damaged(f"{info.filename!r} has two checksums")
        name = info.filename.removesuffix(".npy")
        if name == info.filename or name in members:
            raise Damaged(f"{info.filename!r} is no array, or there twice")
        members[name] = info
    if sum(info.file_size for info in members.values()) > size:
        raise Damaged("its arrays claim to be larger than the file")
    if not {MANIFEST, SEAL} <= members.keys():
        raise Damaged("it has no manifest, so it isn't a checkpoint of llmlab")
    return members


def _read_manifest(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]
) -> dict[str, Any]:
    data = _read_bytes(archive, members[MANIFEST])
    seal = _read_bytes(archive, members[SEAL])
    if _sha256(data) != seal.tobytes().hex():
        raise Damaged("its manifest isn't what its sha256 says")
    manifest = json.loads(data.tobytes(), parse_constant=_refuse)
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
        raise Damaged("its manifest names no format")
    if manifest["format"] > FORMAT:
        raise Damaged(
            f"it has format {manifest['format']}, and this llmlab reads up to {FORMAT}: "
            "a newer llmlab wrote it"
        )
    if not all(isinstance(manifest.get(key), dict) for key in ("arrays", "meta")):
        raise Damaged("its manifest lacks the arrays or the meta")
    return manifest


def _refuse(constant: str) -> None:
    raise Damaged(f"its manifest has {constant}, which isn't JSON")


def _declared(
    name: str, entry: Any, members: Mapping[str, zipfile.ZipInfo]
) -> tuple[str, tuple[int, ...]]:
    """Check what the manifest says of one array against its member's size."""
    if not _good_name(name):
        raise Damaged(f"its manifest has an impossible name, {name!r}")
    if name not in members:
        raise Damaged(f"{name!r} is missing from it")
    dtype, shape = entry["dtype"], entry["shape"]
    if dtype not in DTYPES:
        raise Damaged(f"{name!r} has the dtype {dtype!r}, which isn't allowed")
    if len(shape) > _MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise Damaged(f"{name!r} has an impossible shape")
    expected = len(_npy_header(dtype, tuple(shape))) + math.prod(shape) * np.dtype(dtype).itemsize
    if members[name].file_size != expected:
        raise Damaged(f"{name!r} has another size than its shape says")
    return dtype, tuple(shape)


def _read_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Read a member of bytes, whose length only the directory knows."""
    for header in (64, 128):
        length = info.file_size - header
        if length >= 0 and len(_npy_header("|u1", (length,))) == header:
            return _read_member(archive, info, "|u1", (length,))
    raise Damaged(f"{info.filename!r} is too short")


def _read_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, dtype: str, shape: tuple[int, ...]
) -> np.ndarray:
    expected = _npy_header(dtype, shape)
    with archive.open(info) as member:
        if member.read(len(expected)) != expected:
            raise Damaged(f"the header of {info.filename!r} isn't what the manifest says")
        array = np.empty(shape, dtype)
        view = _bytes(array)
        for start in range(0, len(view), _CHUNK):
            part = view[start : start + _CHUNK]
            if member.readinto(part) != len(part):  # type: ignore[attr-defined]
                raise Damaged(f"{info.filename!r} ends too early")
        if member.read(1):  # reading to the very end also makes zip compare its CRC
            raise Damaged(f"{info.filename!r} is longer than its shape says")
    return array
