"""One process at a time in a run's folder."""

import contextlib
import fcntl
import os
import platform
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from llmlab.atomic_write import refused
from llmlab.errors import ResourceError


class Held(ResourceError):
    """Another process works on the run."""


class RunLock:
    """Hold `path` locked until `release`, or until this process ends, however it ends.

    A forked child lets go of its copy by itself: else a worker that outlives its killed parent
    would keep the run locked.
    """

    def __init__(self, path: Path):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._handle = os.open(path, flags, 0o666)
        except OSError as error:
            raise refused(path, error) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._handle).st_nlink == 0:  # its run was refused, and is gone
                raise BlockingIOError
        except BlockingIOError as error:
            holder = os.pread(self._handle, 200, 0).decode(errors="replace").strip()
            self.release()
            raise Held(
                f"{path.parent}: {holder or 'another process'} is working on this run; "
                "wait until it ends, or stop it"
            ) from error
        except OSError as error:
            self.release()
            raise ResourceError(
                f"{path}: can't be locked: {error.strerror}; put runs on a file system with locks"
            ) from error
        # Only information for whoever asks next: the lock holds without it, even on a full disk.
        with contextlib.suppress(OSError):
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        os.register_at_fork(after_in_child=_closer(weakref.ref(self)))

    @contextlib.contextmanager
    def held(self) -> Iterator["RunLock"]:
        """Keep the lock at the end of a `with`, and release it if that fails."""
        try:
            yield self
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Unlock. The file stays: deleting it would let two processes lock two files."""
        if self._handle >= 0:
            os.close(self._handle)  # closing unlocks; LOCK_UN in a child would free the parent's
            self._handle = -1


def _closer(reference: Callable[[], RunLock | None]) -> Callable[[], None]:
    def close() -> None:
        lock = reference()
        if lock is not None:
            lock.release()

    return close
