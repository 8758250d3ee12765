"""Damage for checkpoints: what disks, crashes, transfers and careless tools do to a file.

`python tests/support/damage.py FILE COUNT` mutates a copy of a checkpoint COUNT times and reports.
"""

import random
import struct
import sys
import tempfile
from pathlib import Path

from llmlab.checkpoints import Checkpoint, load
from llmlab.errors import CheckpointError


def mutate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Return `data` damaged in one of ten ways; `other` is another sound checkpoint."""
    return rng.choice(_WAYS)(bytearray(data), rng, other)


def same(a: Checkpoint, b: Checkpoint) -> bool:
    """Say whether two checkpoints hold the same bits under the same names."""
    return (
        a.meta == b.meta
        and list(a.arrays) == list(b.arrays)
        and all(
            x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
            for x, y in zip(a.arrays.values(), b.arrays.values(), strict=True)
        )
    )


def outcome(path: Path, data: bytes, original: Checkpoint) -> str:
    """Load `data` from `path`: "refused", "unharmed" or what went wrong."""
    path.write_bytes(data)
    try:
        loaded = load(path)
    except CheckpointError as error:
        return "refused" if "\n" not in str(error) else f"more than one line: {error}"
    except BaseException as error:
        return f"foreign exception: {error!r}"
    return "unharmed" if same(loaded, original) else "SILENTLY DIFFERENT"


def _flip(data: bytearray, rng: random.Random, other: bytes) -> bytes:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _flip_directory(data: bytearray, rng: random.Random, other: bytes) -> bytes:
    start = data.index(b"PK\x01\x02")
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(start, len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _flip_local_headers(data: bytearray, rng: random.Random, other: bytes) -> bytes:
    starts = _all(data, b"PK\x03\x04")
    data[rng.choice(starts) + rng.randrange(180)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _truncate(data: bytearray, rng: random.Random, other: bytes) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def _zero(data: bytearray, rng: random.Random, other: bytes) -> bytes:
    start = rng.randrange(len(data))
    length = rng.choice((1, 16, 512, 4096))
    start -= start % length
    stop = min(start + length, len(data))
    data[start:stop] = bytes(stop - start)
    return bytes(data)


def _overwrite(data: bytearray, rng: random.Random, other: bytes) -> bytes:
    start = rng.randrange(len(data))
    stop = min(start + rng.choice((2, 8, 64)), len(data))
    data[start:stop] = rng.randbytes(stop - start)
    return bytes(data)


def _splice(data: bytearray, rng: random.Random, other: bytes) -> bytes:
    """Mix in part of another checkpoint, as a torn write over it would."""
    start = rng.randrange(len(data))
    stop = min(start + rng.choice((64, 512, 4096)), len(data))
    data[start:stop] = other[start:stop]
    return bytes(data)


def _move(data: bytearray, rng: random.Random, other: bytes) -> bytes:
    at = rng.randrange(len(data))
    if rng.random() < 0.5:
        del data[at : at + rng.randint(1, 9)]
    else:
        data[at:at] = rng.randbytes(rng.randint(1, 9))
    return bytes(data)


def _edit_directory(data: bytearray, rng: random.Random, other: bytes) -> bytes:
    """Set a field of one directory entry (offset, sizes, method, lengths) to another's or odd."""
    entries = _all(data, b"PK\x01\x02")
    at, width = rng.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)))
    entry, donor = rng.choice(entries), rng.choice(entries)
    value = rng.choice((bytes(data[donor + at : donor + at + width]), b"\xff" * width))
    data[entry + at : entry + at + width] = value
    return bytes(data)


def _rename(data: bytearray, rng: random.Random, other: bytes) -> bytes:
    """Swap two members' names of one length consistently, or give both the same name."""
    entries = _all(data, b"PK\x01\x02")
    sites = []
    for entry in entries:
        (length,) = struct.unpack_from("<H", data, entry + 28)
        (local,) = struct.unpack_from("<I", data, entry + 42)
        sites.append((bytes(data[entry + 46 : entry + 46 + length]), entry + 46, local + 30))
    one, two = rng.sample(sites, 2)
    if len(one[0]) != len(two[0]):
        return _flip_directory(data, rng, other)
    for start in one[1:]:
        data[start : start + len(two[0])] = two[0]
    if rng.random() < 0.5:
        for start in two[1:]:
            data[start : start + len(one[0])] = one[0]
    return bytes(data)


def _all(data: bytes | bytearray, mark: bytes) -> list[int]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


_WAYS = (
    _flip,
    _flip_directory,
    _flip_local_headers,
    _truncate,
    _zero,
    _overwrite,
    _splice,
    _move,
    _edit_directory,
    _rename,
)


def main() -> None:
    """Damage a checkpoint many times and print how its loads ended."""
    source, count = Path(sys.argv[1]), int(sys.argv[2])
    data, original, rng = source.read_bytes(), load(source), random.Random(0)
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(count):
            damaged = mutate(data, rng, bytes(rng.randbytes(len(data))))
            result = outcome(Path(folder) / "damaged.npz", damaged, original)
            counts[result] = counts.get(result, 0) + 1
    for result, number in sorted(counts.items()):
        print(f"{number:8d} {result}")


if __name__ == "__main__":
    main()
