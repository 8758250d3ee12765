"""Standard input, output and error that may be closed, full or of a limited encoding."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class _Lenient(io.FileIO):
    """A standard stream that may be full or have no reader.

    While `forgiving`, what can't be written is left out, and remembered as `failure`: neither a
    progress bar nor a message is a reason to end a training.
    """

    failure: OSError | None = None
    forgiving = False

    def write(self, data: Any) -> int | None:
        """Write, or remember why not."""
        if self.failure is None:
            try:
                return super().write(data)
            except BlockingIOError:
                raise
            except OSError as error:
                where = "standard output" if self.fileno() == 1 else "standard error"
                self.failure = OSError(error.errno, error.strerror, where)
        if not self.forgiving:
            raise self.failure
        return len(data)


def open_streams() -> None:
    """Give this process three streams that can be used, whatever it was started with.

    A stream that is closed becomes one that is empty, else the next file that is opened would
    get its number. Letters that an encoding lacks are replaced.
    """
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = getattr(sys, name)
        if stream is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        if number and stream is getattr(sys, f"__{name}__") and _has_number(stream, number):
            setattr(sys, name, _lenient(stream, number))
        # Streams that a test or a notebook puts in their place have no encoding.
        with contextlib.suppress(AttributeError, ValueError):
            getattr(sys, name).reconfigure(errors="replace")


def _has_number(stream: Any, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError):
        return False


def _lenient(stream: Any, number: int) -> io.TextIOWrapper:
    stream.flush()
    raw = _Lenient(number, "w", closefd=False)
    raw.forgiving = number == 2  # there is nowhere to say it
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        line_buffering=stream.line_buffering or number == 2,
        write_through=number == 2,
    )


def _raw(stream: Any) -> _Lenient | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Lenient) else None


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
    """While open, tolerate a standard output that is full or has no reader."""
    raw = _raw(sys.stdout)
    if raw is not None:
        raw.forgiving = True
    try:
        yield
    finally:
        if raw is not None:
            raw.forgiving = False


def close_streams() -> OSError | None:
    """Write what is left; return the reason if something couldn't be written."""
    failure = None
    for stream in (sys.stderr, sys.stdout):
        raw = _raw(stream)
        try:
            stream.flush()
        except OSError as error:
            failure = error
        except ValueError:  # closed
            continue
        if raw is not None:
            failure = raw.failure or failure
            raw.forgiving = True  # at the interpreter's end nobody is there to be told
    return failure
