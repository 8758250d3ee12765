"""Files of rows, a JSON object a line, of which each has its step."""

import json
from pathlib import Path
from typing import Any

from llmlab.regular_file import open_regular


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, if it is there; a line that a crash has torn is left out."""
    rows = []
    try:
        with open_regular(path) as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def rows_until(path: Path, step: int) -> int:
    """Return the length in bytes of the rows of `path` up to a step: where it goes on from there.

    What follows the first row of a later step, or the first damaged one, doesn't count.
    """
    offset = 0
    try:
        with open_regular(path) as file:
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    for line in lines:
        try:
            known = line.endswith(b"\n") and json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError, RecursionError):
            known = False
        if not known:
            break
        offset += len(line)
    return offset
