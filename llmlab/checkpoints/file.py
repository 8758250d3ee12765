"""Save and load one checkpoint file."""

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from llmlab.atomic_write import replace_file
from llmlab.checkpoints import format as form
from llmlab.checkpoints import meta as meta_schema
from llmlab.checkpoints.upgrades import UPGRADES, Arrays, Meta
from llmlab.errors import CheckpointError, ResourceError, TrainingError
from llmlab.regular_file import LACKING, open_regular

T = TypeVar("T")
_SHOWN = 40
# Refusals of the system that say nothing about the file: no reason to use an older one.
_REFUSALS = LACKING | {
    errno.EACCES: "give yourself read permission",
    errno.EPERM: "give yourself read permission",
}
_ADVICE = "use another checkpoint of its run, or resume=RUN, which takes the newest sound one"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file: arrays by name, and `meta`, plain JSON, in today's format."""

    arrays: Arrays
    meta: Meta
    path: Path


def save(path: Path | str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> int:
    """Write a checkpoint durably; when this returns, it survives a power cut.

    Parameters
    ----------
    path
        The file, replaced in one operation if it is there.
    arrays
        By name: "params/<dotted name>", "optimizer/<state>/<dotted name>".
    meta
        JSON values with string keys (the order of keys isn't kept). To keep equal states equal
        files, it should hold no path, time or name of the run.

    Returns
    -------
    int
        The size of the file in bytes.

    Raises
    ------
    ValueError
        `meta` has a value that no reader would accept; nothing is written.
    TrainingError
        A parameter, or the mean of one, is NaN or infinite; nothing is written.
    ResourceError
        The system refused; nothing has changed.
    """
    try:
        meta_schema.check(meta)
    except form.Damaged as error:
        raise ValueError(f"{path}: not saved: {error}") from None
    bad = _first_not_finite(arrays)
    if bad:
        raise TrainingError(
            f"{path}: not saved, since {bad!r} holds NaN or infinity; "
            "the checkpoints before it are intact: resume with a smaller lr"
        )
    return replace_file(Path(path), lambda file: form.write(file, arrays, meta))


def load(path: Path | str) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises
    ------
    CheckpointError
        It is damaged in whatever way, missing, or no checkpoint.
    ResourceError
        There is no memory for it, or the system refuses to open it.
    """
    path = Path(path)

    def read(file: BinaryIO, size: int) -> Checkpoint:
        found, arrays, meta = form.read(file, size)
        arrays, meta = _upgraded(found, arrays, meta)
        meta_schema.check(meta)
        bad = _first_not_finite(arrays)
        if bad:
            raise form.Damaged(f"{bad!r} holds NaN or infinity")
        return Checkpoint(arrays, meta, path)

    return _guarded(path, read)


def peek(path: Path | str) -> Meta:
    """Read the meta alone, verified, in today's format; the arrays aren't looked at."""

    def read(file: BinaryIO, size: int) -> Meta:
        manifest = form.read_manifest(file, size)
        meta = _upgraded(manifest["format"], {}, manifest["meta"])[1]
        meta_schema.check(meta)
        return meta

    return _guarded(Path(path), read)


def compare(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    where: str = "the checkpoint",
) -> None:
    """Raise a CheckpointError that lists all missing, extra and misshapen names."""
    rows = []
    for name in sorted(expected.keys() | found.keys()):
        wanted, given = (_shown(shapes.get(name)) for shapes in (expected, found))
        if wanted != given:
            rows.append((name, wanted, given))
    if not rows:
        return
    table = [("name", "expected", "found"), *rows[:_SHOWN]]
    widths = [max(len(row[i]) for row in table) for i in range(3)]
    lines = [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    if len(rows) > _SHOWN:
        lines.append(f"  ... and {len(rows) - _SHOWN} more")
    raise CheckpointError(
        f"{where} doesn't fit what is built: {len(rows)} arrays differ; "
        "use it with the model and the optimizer that it was saved with\n" + "\n".join(lines)
    )


def _guarded(path: Path, read: Callable[[BinaryIO, int], T]) -> T:
    """Open `path` and call `read(file, size)`; distinguish damage from refusals of the system."""
    try:
        with open_regular(path) as file:
            return read(file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: there is no such checkpoint; look in the folder of its run"
        ) from error
    except ResourceError:
        raise
    except form.Damaged as error:
        raise CheckpointError(f"{path}: unusable checkpoint: {error}; {_ADVICE}") from error
    # Sizes were compared with the file's before, so it is the machine that lacks memory.
    except MemoryError as error:
        raise ResourceError(
            f"{path}: not enough memory to load it; close other programs, or use a larger machine"
        ) from error
    # zip, JSON and struct have some twenty ways to say "damaged"; their texts would puzzle
    # (NumPy's advises unsafe loading), so they are only chained.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            advice = _REFUSALS[error.errno]
            raise ResourceError(f"{path}: can't be read: {error.strerror}; {advice}") from error
        told = error.strerror if isinstance(error, OSError) else None
        reason = told or "it is damaged, or isn't a checkpoint"
        raise CheckpointError(f"{path}: unusable checkpoint: {reason}; {_ADVICE}") from error


def _upgraded(version: int, arrays: Arrays, meta: Meta) -> tuple[Arrays, Meta]:
    for step in range(version, form.FORMAT):
        arrays, meta = UPGRADES[step](arrays, meta)
    return arrays, meta


def _first_not_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
    for name, array in arrays.items():
        floats = name.startswith(("params/", "ema/")) and array.dtype.kind == "f"
        if floats and not np.isfinite(array).all():
            return name
    return None


def _shown(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape)) or "scalar"
