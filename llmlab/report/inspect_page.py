"""The page of a look inside: one file, which opens from disk and asks nobody for anything."""

import base64
import json
import re
import zlib
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.atomic_write import replace_text

MOST_BYTES = 2_000_000
BITS = (8, 6, 5, 4)
_PARTS = ("inspect.html", "inspect.css", "inspect.js")


def packed_maps(maps: np.ndarray, bits: int) -> str:
    """Return attention maps (N, T, T) as text: the lower triangles' square roots in whole numbers.

    Roots, since most probabilities are small; at 8 bits the largest error is 0.004, at 4 bits 0.07.
    """
    rows, columns = np.tril_indices(maps.shape[1])
    levels = 2**bits - 1
    values = np.rint(np.sqrt(np.nan_to_num(maps[:, rows, columns])) * levels).astype(np.uint8)
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def rounded(values: Any, digits: int = 3) -> Any:
    """Return nested lists of numbers with few digits; what isn't finite becomes None."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list | tuple):
        return [rounded(each, digits) for each in values]
    if isinstance(values, float):
        return round(values, digits) if np.isfinite(values) else None
    return values


def write_inspect_page(
    folder: Path, content: Callable[[int | None], tuple[dict[str, Any], np.ndarray]]
) -> tuple[Path, dict[str, Any]]:
    """Write report.html within its size, and return it and what is in it.

    `content` returns what is shown of the last tokens, as many as asked for or all (None), and the
    maps (N, T, T). First the maps get fewer bits, then there are fewer tokens.
    """
    tokens: int | None = None
    while True:
        shown, maps = content(tokens)
        for bits in BITS:
            told = dict(shown)
            told["maps"] = {"bits": bits, "count": len(maps), "data": packed_maps(maps, bits)}
            if bits < BITS[0]:
                note = f"To keep this page small, the maps are drawn with {bits} bits instead of 8."
                told["notes"] = [*told["notes"], note]
            text = _page(told)
            if len(text.encode()) <= MOST_BYTES:
                path = folder / "report.html"
                replace_text(path, text, sync=False)
                return path, shown
        tokens = len(shown["tokens"]) // 2


def _page(content: Mapping[str, Any]) -> str:
    html, css, js = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _PARTS)
    data = json.dumps(content, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    fields = {
        "title": escape(str(content["title"])),
        "css": css,
        "js": js,
        "data": data.replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: fields[found[1]], html)
