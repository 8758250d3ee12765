"""Files of a folder that somebody else made: opened and read without believing anything."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from llmlab.errors import CheckpointError, ConfigError, ResourceError
from llmlab.regular_file import open_regular

_MOST = 256 * 2**20  # the largest tokenizer.json in use is a tenth of it


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file for reading bytes; give it with its size.

    What is no regular file is refused: a pipe would wait forever.
    """
    try:
        with open_regular(path) as file:
            yield file, os.fstat(file.fileno()).st_size
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file."""
    with opened(path) as (file, size):
        if size > _MOST:
            raise CheckpointError(f"{path}: {size:,} bytes, no such file has more than {_MOST:,}")
        data = file.read(size)
    return parse_object(data, path)


def write_object(content: Any, path: Path) -> None:
    """Write a JSON object."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `target` when all of it is written."""
    beside = target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ConfigError(f"target={target}: there is something already; name a new folder")
        beside.mkdir()
        yield beside
        os.replace(beside, target)  # over an empty folder, too
    except OSError as error:
        raise ResourceError(
            f"target={target}: cannot be written: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def parse_object(data: bytes, where: object) -> dict[str, Any]:
    """Return the JSON object in `data`; a key that is there twice is an error."""
    try:
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{where}: not JSON: {reason}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{where}: expected a JSON object, found {type(content).__name__}")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return found
