"""Which files a user means by a name, a folder or a glob."""

import glob
import os
from pathlib import Path

from llmlab.errors import ConfigError, DataError

Paths = str | Path | list[str | Path]


def absolute(path: str | Path) -> Path:
    """Return the absolute path of a file that a user named; a leading `~` is the home folder."""
    if not isinstance(path, str | Path):
        raise ConfigError(f"path={path!r}: expected the name of a file")
    return Path(os.path.abspath(os.path.expanduser(path)))


def expand(paths: Paths) -> list[Path]:
    """Return the files that names, globs and folders mean, each once.

    A folder means every `.txt` and `.txt.gz` in it, however deep; the files of a folder or a
    glob come in the order of their names. A name without a file is returned as it is.

    Raises
    ------
    DataError
        A folder or a glob holds no such file.
    """
    found: dict[Path, None] = {}
    for name in paths if isinstance(paths, list) else [paths]:
        path = absolute(name)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*.txt*") if _is_text(p) and p.is_file())
            reason = "the folder holds no .txt or .txt.gz file"
        elif glob.has_magic(str(path)) and not path.exists():
            files = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
            files = [p for p in files if p.is_file()]
            reason = "no file matches"
        else:
            files, reason = [path], ""
        if not files:
            raise DataError(f"{path}: {reason}; name a file, a folder of .txt files, or a glob")
        found |= dict.fromkeys(files)
    return list(found)


def _is_text(path: Path) -> bool:
    return path.name.lower().endswith((".txt", ".txt.gz"))


def named(paths: Paths) -> str:
    """Return what a user named, absolute, for messages."""
    names = paths if isinstance(paths, list) else [paths]
    return ", ".join(str(absolute(name)) for name in names)
