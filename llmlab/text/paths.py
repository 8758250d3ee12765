"""Which files a user means by a name, a folder or a glob."""

import glob
import os
from pathlib import Path

from llmlab.errors import ConfigError, DataError

_TEXTS, _LISTS = (".txt",), (".json", ".jsonl", ".ndjson", ".csv")

Paths = str | Path | list[str | Path]


def absolute(path: str | Path) -> Path:
    """Return the absolute path of a file that a user named; a leading `~` is the home folder."""
    if not isinstance(path, str | Path):
        raise ConfigError(f"path={path!r}: expected the name of a file")
    return Path(os.path.abspath(os.path.expanduser(path)))


def expand(paths: Paths) -> list[Path]:
    """Return the files that names, globs and folders mean, each once.

    A folder means every `.txt` and `.txt.gz` in it, however deep; one without any means every
    `.json`, `.jsonl`, `.ndjson` and `.csv`, also packed. The files of a folder or a glob come in
    the order of their names. A name without a file is returned as it is.
    """
    found: dict[Path, None] = {}
    for name in paths if isinstance(paths, list) else [paths]:
        path = absolute(name)
        if path.is_dir():
            every = sorted(p for p in path.rglob("*") if p.is_file())
            files = [p for p in every if _is(p, _TEXTS)] or [p for p in every if _is(p, _LISTS)]
            reason = "the folder holds no .txt, .json, .jsonl or .csv file"
        elif glob.has_magic(str(path)) and not path.exists():
            files = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
            files = [p for p in files if p.is_file()]
            reason = "no file matches"
        else:
            files, reason = [path], ""
        if not files:
            raise DataError(f"{path}: {reason}; name a file, a folder of such files, or a glob")
        found |= dict.fromkeys(files)
    return list(found)


def _is(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(suffixes)


def named(paths: Paths) -> str:
    """Return what a user named, absolute, for messages."""
    names = paths if isinstance(paths, list) else [paths]
    return ", ".join(str(absolute(name)) for name in names)
