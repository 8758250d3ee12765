"""Open what is a regular file, and nothing else: a FIFO waits for ever, a device never ends."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from llmlab.errors import ResourceError

# What the system lacks, whatever the file is.
LACKING = {
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs",
}


def open_regular(path: Path | str) -> BinaryIO:
    """Open a file to read its bytes.

    Raises
    ------
    OSError
        It can't be opened, or is a folder, a FIFO, a socket or a device.
    ResourceError
        The system has no open files or no memory left.
    """
    try:
        # Not blocking: a FIFO would wait for somebody to write.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in LACKING:
            reason, advice = error.strerror, LACKING[error.errno]
            raise ResourceError(f"{path}: can't be read: {reason}; {advice}") from error
        raise
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path | str, limit: int) -> bytes:
    """Return the content of a file of at most `limit` bytes; raise `OSError` as `open_regular`."""
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit / 2**20:,.0f} MiB", str(path))
    return content


def to_write(path: str, flags: int) -> int:
    """Open a regular file to write into it, as the `opener` of `open`; follow no symbolic link."""
    try:
        # Not blocking: a FIFO would wait for somebody to read.
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a FIFO that nobody reads
            raise OSError(errno.EINVAL, "not a regular file", path) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return handle
