"""Where Optuna keeps the trials: a journal in the search's folder, or PostgreSQL."""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmlab.atomic_write import make_folder, refused
from llmlab.errors import ConfigError, MissingPackage, ResourceError

JOURNAL = "journal.log"
FOREIGN_SECONDS = 2.0  # a dashboard holds the journal for milliseconds
_URL = re.compile(r"postgres(ql)?(\+\w+)?://(?P<host>[^/]*)(/.*)?", re.DOTALL)


def check_url(url: str) -> str:
    """Return the URL as SQLAlchemy wants it."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ConfigError(
            f"search.storage={url.split('@')[-1]}: expected postgresql://USER@HOST/DATABASE; null: "
            "a journal in the search's folder"
        )
    if ":" in found["host"].rpartition("@")[0] or "password=" in url:
        raise ConfigError(
            "search.storage: holds a password, which would be written into the records of runs; "
            "put it into PGPASSWORD or ~/.pgpass"
        )
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+psycopg://", url)


def import_optuna() -> Any:
    """Return Optuna, which says only what is wrong; raise MissingPackage if it isn't installed."""
    try:
        import optuna
    except ImportError as error:
        raise MissingPackage("phase=search", "optuna", "search") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_storage(folder: Path, url: str | None) -> Any:
    """Return Optuna's storage of the search in `folder`."""
    optuna = import_optuna()
    if url is None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        path = folder / JOURNAL
        lock = JournalLock(path)
        with lock:  # cuts what a killed writer has left
            pass
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))  # pyright: ignore[reportArgumentType]
    try:
        return optuna.storages.RDBStorage(check_url(url))
    except ImportError as error:
        raise MissingPackage("search.storage: PostgreSQL", "psycopg", "postgresql") from error
    except Exception as error:  # SQLAlchemy's are of many kinds
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise ResourceError(f"search.storage: the database can't be used: {reason}") from error


class JournalLock:
    """One writer of a journal at a time, in the form that Optuna's backend takes.

    The system lets go of it when its holder is killed. What a killed writer has left half
    written is cut before anybody appends, since the journal would be unreadable from there on.

    Optuna's own lock file is made, too, for programs such as optuna-dashboard.
    """

    def __init__(self, journal: Path):
        self._journal = journal
        self._handle = -1
        self._theirs = f"{journal}.lock"

    def acquire(self) -> bool:
        """Wait until nobody else writes."""
        self._handle = lock_file(self._journal.with_suffix(".flock"))
        until = time.monotonic() + FOREIGN_SECONDS
        while True:
            try:
                os.symlink(self._journal, self._theirs)
                break
            except FileExistsError:
                # None of ours, since this process has the other lock; so after a while it is
                # what a killed process has left.
                if time.monotonic() > until:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self._theirs)
                time.sleep(0.002)
        cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        """Let others write."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._theirs)
        os.close(self._handle)
        self._handle = -1

    def __enter__(self) -> "JournalLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_file(path: Path) -> int:
    """Lock a file, waiting for others, until the handle that is returned is closed."""
    make_folder(path.parent)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except BaseException:
            os.close(handle)
            raise
    except OSError as error:
        raise refused(path, error) from error
    return handle


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """While open, keep other processes out that do the same."""
    handle = lock_file(path)
    try:
        yield
    finally:
        os.close(handle)


def cut_torn_line(path: Path) -> None:
    """Cut a file to its last complete line."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            begin = max(0, end - 65536)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                end = begin + found + 1
                break
            end = begin
        if end < size:
            file.truncate(end)
