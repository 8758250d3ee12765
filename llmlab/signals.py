"""Signals that ask a run to end: noted at once, obeyed after the step."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
REPEATED_SECONDS = 2.0  # SLURM's srun sends a step's SIGTERM twice
PREEMPTING = ("SIGUSR1", "SIGUSR2")  # as SLURM sends them before it takes the machine away
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


class Interrupted(KeyboardInterrupt):
    """A signal came while there was no step to finish, as while data are read.

    No `Exception`, so that nothing takes it for damage in what is being read.
    """

    def __init__(self, received: int):
        super().__init__(f"stopped by {signal.Signals(received).name}")
        self.exit_code = 128 + received


class Repeats:
    """Tell a signal that is sent twice from a second one.

    Only somebody at a keyboard means more by the second Ctrl-C than by the first.
    """

    def __init__(self) -> None:
        self._last: dict[int, float] = {}

    def is_one(self, number: int) -> bool:
        """Note a signal, and return whether it repeats the one just before it."""
        before, self._last[number] = self._last.get(number), time.monotonic()
        soon = before is not None and self._last[number] - before < REPEATED_SECONDS
        return soon and number != signal.SIGINT


@contextmanager
def handled(
    handler: Callable[[int, FrameType | None], None], names: Sequence[str] = STOPPING
) -> Iterator[None]:
    """While open, let signals call `handler`; outside the main thread none can be held."""
    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for name in names:
                number = getattr(signal, name, None)
                if number is not None:
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


@contextmanager
def interruptible(refusal: Callable[[int], BaseException] = Interrupted) -> Iterator[None]:
    """While open, stopping signals raise `refusal`, as SIGINT does KeyboardInterrupt.

    By default the others would silently end the process, without a record.
    """
    repeats = Repeats()

    def stop(number: int, frame: FrameType | None) -> None:
        if not repeats.is_one(number):
            raise refusal(number)

    with handled(stop):
        yield


def orphaned() -> bool:
    """Return whether another process started this one to work for it, and has died."""
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return False
    try:
        os.kill(parent.pid, 0)  # asks only whether it is there
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def end_with(parent: int) -> None:
    """Have this process stopped when `parent`, which started it, dies, even by kill -9.

    Then it saves and ends, as by SIGTERM. Only Linux can; elsewhere it works on to its end.
    """
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it died before
        os.kill(os.getpid(), signal.SIGTERM)


class Signals:
    """While open, hold the first stopping signal in `received`; a SIGINT after it ends at once.

    Outside the main thread signals can't be held, and this does nothing.

    A job that a sweep has put into a process of its own also stops, as by SIGTERM, when the
    sweep's process is gone: it would work on with nobody waiting, and hold the run's lock.

    `elsewhere` returns the number of a signal that another process of the same work has received;
    0: none.
    """

    def __init__(self, elsewhere: Callable[[], int] = lambda: 0) -> None:
        self._received: signal.Signals | None = None
        self._elsewhere = elsewhere
        self._holding = handled(self._handle)

    def __enter__(self) -> "Signals":
        self._holding.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._holding.__exit__(None, None, None)

    @property
    def received(self) -> signal.Signals | None:
        """The first stopping signal."""
        if self._received is None and orphaned():
            self._received = signal.SIGTERM
        if self._received is None and (number := self._elsewhere()):
            self._received = signal.Signals(number)
        return self._received

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number."""
        return 128 + (self.received or 0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signal.Signals(number)
        elif number == signal.SIGINT:
            os._exit(128 + number)
