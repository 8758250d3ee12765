"""Rows over layers and steps as a grid of numbers, and that as a picture."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from math import isfinite, log10
from typing import Any

import numpy as np

_COLOURS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_MISSING = (200, 200, 200)
_CELL = (8, 12)  # pixels of a step and of a layer


def grid_of(
    rows: Sequence[Mapping[str, Any]], what: str
) -> tuple[list[str], list[int], list[list[float | None]]]:
    """Return names, steps, and a value for each name and step of rows of watch.jsonl.

    `what` is `ratio`, or the norm of `weight`, `gradient` or `update`, of each array; `stream`,
    `entropy` (the mean of the heads) or `dead` of each layer.
    """
    columns = [_column(row, what) for row in rows]
    names = list(dict.fromkeys(name for column in columns for name in column))
    steps = [row["step"] for row in rows]
    return names, steps, [[column.get(name) for column in columns] for name in names]


def _column(row: Mapping[str, Any], what: str) -> dict[str, float | None]:
    if what in ("stream", "dead"):
        return dict(row.get(what) or {})
    if what == "entropy":
        return {path: mean(heads) for path, heads in (row.get("entropy") or {}).items()}
    arrays = row.get("arrays") or {}
    if what == "ratio":
        return {name: own["ratio"] for name, own in arrays.items()}
    return {name: own[what][0] for name, own in arrays.items()}


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is there; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def logarithm(value: float | None) -> float | None:
    """Return log10 of a positive number; None of any other."""
    return log10(value) if value is not None and isfinite(value) and value > 0 else None


def picture(values: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Return a grid as (H, W, 3) bytes: logarithms from dark (least) to bright, grey is missing."""
    table = [[logarithm(value) for value in row] for row in values]
    known = [value for row in table for value in row if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    span = (high - low) or 1.0
    stops = np.linspace(0, 1, len(_COLOURS))
    pixels = np.empty((len(table), len(table[0]), 3), np.uint8)
    for i, row in enumerate(table):
        for j, value in enumerate(row):
            if value is None:
                pixels[i, j] = _MISSING
                continue
            share = (value - low) / span
            pixels[i, j] = [round(np.interp(share, stops, c)) for c in zip(*_COLOURS, strict=True)]
    return pixels.repeat(_CELL[1], axis=0).repeat(_CELL[0], axis=1)


def png(pixels: np.ndarray) -> bytes:
    """Return (H, W, 3) bytes as a PNG file (ISO/IEC 15948), whose compression is zlib's."""
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = pixels.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
