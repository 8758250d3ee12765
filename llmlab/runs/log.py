"""A run's log file, and what it says of the run's end."""

import contextlib
import logging
import signal
from pathlib import Path
from typing import Any

from llmlab.atomic_write import refused
from llmlab.errors import Stopped
from llmlab.signals import PREEMPTING

log = logging.getLogger("llmlab")

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_PREEMPTED = {128 + getattr(signal, name) for name in PREEMPTING if hasattr(signal, name)}


class _LogFile(logging.FileHandler):
    """A log that a full disk leaves incomplete, without a word: what failed to save has one."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave the line out; logging's own way is a traceback on the terminal."""

    def close(self) -> None:
        """Close, even if what is left can't be written."""
        with contextlib.suppress(OSError):
            super().close()


def log_file(path: Path) -> logging.Handler:
    """Return a handler that appends to `path`; raise ResourceError if it can't be written."""
    try:
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise refused(path, error) from error
    handler.setFormatter(logging.Formatter(_FORMAT))
    return handler


def log_traceback(handler: logging.Handler, error: BaseException) -> None:
    """Put the traceback into the log file alone: the terminal gets one line, from the cli."""
    trace = (type(error), error, error.__traceback__)
    handler.handle(
        log.makeRecord(log.name, logging.ERROR, __file__, 0, "the run failed", (), trace)
    )


def status_of(error: BaseException) -> str:
    """Return the status of a run that `error` ended."""
    if isinstance(error, Stopped | KeyboardInterrupt):
        return "preempted" if getattr(error, "exit_code", 130) in _PREEMPTED else "stopped"
    return "failed"


def warn_of_bits(what: str, then: Any, now: Any) -> None:
    """Warn that a continued run isn't on what it began on."""
    log.warning(
        "%s was %s and is %s: the last bits may differ from an unbroken run", what, then, now
    )
