"""A run's log file, and what it says of the run's end."""

import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import Any

from llmlab.atomic_write import refused
from llmlab.errors import Pruned, Stopped
from llmlab.regular_file import to_write
from llmlab.signals import PREEMPTING

log = logging.getLogger("llmlab")

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
PREEMPTED = "preempted"  # the status of a run that its scheduler will let go on
_PREEMPTING = {128 + getattr(signal, name) for name in PREEMPTING if hasattr(signal, name)}


class LogFile(logging.FileHandler):
    """A run's log; on a full disk it is silently incomplete, since what can't be saved says so.

    Lines are `held` back until `write_held` where the start may come to nothing.
    """

    def __init__(self, path: Path, held: bool = False):
        self._held: list[logging.LogRecord] | None = [] if held else None
        try:
            super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=held)
        except OSError as error:
            raise refused(path, error) from error
        self.setFormatter(logging.Formatter(_FORMAT))

    def _open(self) -> Any:
        return open(
            self.baseFilename,
            self.mode,
            encoding=self.encoding,
            errors=self.errors,
            opener=to_write,
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or keep it back."""
        if self._held is not None:
            self._held.append(record)
            return
        with contextlib.suppress(OSError):  # it is opened by the first line
            super().emit(record)

    def write_held(self) -> None:
        """Write the lines that were kept back, and all that follow."""
        held, self._held = self._held or [], None
        for record in held:
            self.emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave the line out; logging itself would print a traceback."""

    def close(self) -> None:
        """Close, even if what is left can't be written."""
        with contextlib.suppress(OSError):
            super().close()


def log_traceback(handler: logging.Handler, error: BaseException) -> None:
    """Put the traceback into the log file alone: the terminal gets one line, from the cli."""
    trace = (type(error), error, error.__traceback__)
    handler.handle(
        log.makeRecord(log.name, logging.ERROR, __file__, 0, "the run failed", (), trace)
    )


def status_of(error: BaseException) -> str:
    """Return the status of a run that `error` ended."""
    if isinstance(error, Pruned):
        return "pruned"
    if isinstance(error, Stopped | KeyboardInterrupt):
        code = getattr(error, "exit_code", 130)
        # SLURM takes a machine away with SIGTERM, too, and says nothing else.
        taken = code == 128 + signal.SIGTERM and "SLURM_JOB_ID" in os.environ
        return PREEMPTED if taken or code in _PREEMPTING else "stopped"
    return "failed"


def warn_of_bits(what: str, then: Any, now: Any) -> None:
    """Warn that a run is continued with something else than it began with."""
    log.warning(
        "%s was %s and is %s: the last bits may differ from an uninterrupted run", what, then, now
    )
