"""Workers that are forked from this process.

They share parameters, gradients and moments through anonymous memory; only
commands and token ids go through a pipe. Threads would share them for free, but compete for
the interpreter's lock; on small models processes win.
"""

import contextlib
import mmap
import os
import signal
import struct
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from llmlab.errors import ResourceError, TrainingError
from llmlab.train.batch_shards import Shard, ShardBatch
from llmlab.train.share_stream import read_share, write_share
from llmlab.train.worker_errors import OK, error_of, told
from llmlab.train.workers import Here, total

GRADIENTS, REDUCE, NORM, UPDATE = range(4)
_HEAD = struct.Struct("<iqddq")  # command, step, two reals, number of batches
_REPLY = struct.Struct("<idq")  # status, value, length of a text
_IGNORED = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


def can_fork() -> bool:
    """Return whether workers can be forked here (not on Windows, not safely on macOS)."""
    return hasattr(os, "fork") and os.uname().sysname == "Linux"


def shared(size: int, dtype: np.dtype) -> np.ndarray:
    """Return a vector of zeros that forked processes share."""
    return np.frombuffer(mmap.mmap(-1, max(1, size) * dtype.itemsize), dtype)


class Forked(Here):
    """A shard in this process, and one in each of the processes that are forked from it.

    `make(rank)` makes a shard, in the process that will use it.
    """

    def __init__(self, make: Callable[[int], Shard], count: int):
        self.count = count
        self._workers: list[_Worker] = []
        with self._together():
            for rank in range(1, count):
                self._workers.append(_Worker(make, rank))
            self.shard = make(0)

    def gradients(self, shares: Sequence[Sequence[ShardBatch]], scale: float, step: int) -> float:
        """Fill the gradients; return the sum of the weighted losses."""
        return total(self.losses(shares, scale, step))

    def losses(
        self, shares: Sequence[Sequence[ShardBatch]], scale: float, step: int
    ) -> list[float]:
        """Fill the gradients; return each shard's sum of the weighted losses."""
        with self._together():
            for worker, own in zip(self._workers, shares[1:], strict=True):
                worker.send(GRADIENTS, step, (scale, 0.0), own)
            loss = self.shard.gradients(shares[0], scale, step)
            return [loss, *(worker.receive() for worker in self._workers)]

    def reduce(self) -> float:
        """Sum the shards' gradients, each process a part; return the squared norm of the sum."""
        return total(self._all(self.shard.reduce, REDUCE))

    def squared_norms(self) -> list[float]:
        """Return the squared norm of each part of the first gradient."""
        return self._all(self.shard.squared_norm, NORM)

    def update(self, lr: float, step: int, scale: float) -> None:
        """Update the parameters."""

        def own() -> float:
            self.shard.update(lr, step, scale)
            return 0.0

        self._all(own, UPDATE, step, (lr, scale))

    def _all(
        self,
        own: Callable[[], float],
        command: int,
        step: int = 0,
        reals: tuple[float, float] = (0.0, 0.0),
    ) -> list[float]:
        """Do one thing in every process; return this one's result and those of the others."""
        with self._together():
            for worker in self._workers:
                worker.send(command, step, reals)
            return [own(), *(worker.receive() for worker in self._workers)]

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """End the workers if something went wrong: an answer left in a pipe would be the next's."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()
        self._workers = []


class _Worker:
    """The parent's end of a forked worker."""

    def __init__(self, make: Callable[[int], Shard], rank: int):
        to_child, from_child = os.pipe(), os.pipe()
        # A signal in the child before it ignores them would run the parent's handlers there.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
        try:
            with warnings.catch_warnings():
                # Python warns of forks beside threads. BLAS stops its own before a fork, and the
                # child neither takes a lock nor returns to the caller.
                warnings.simplefilter("ignore", DeprecationWarning)
                self.pid = os.fork()
            if self.pid == 0:
                _serve(make, rank, to_child[0], from_child[1])
        except OSError as error:
            for end in (*to_child, *from_child):
                os.close(end)
            raise ResourceError(
                f"threads: no further process could be started ({error.strerror}); use fewer"
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(to_child[0])
        os.close(from_child[1])
        self._out: BinaryIO = os.fdopen(to_child[1], "wb")
        self._in: BinaryIO = os.fdopen(from_child[0], "rb")

    def send(
        self,
        command: int,
        step: int = 0,
        reals: tuple[float, float] = (0.0, 0.0),
        share: Sequence[ShardBatch] = (),
    ) -> None:
        try:
            self._out.write(_HEAD.pack(command, step, *reals, len(share)))
            for part in share:
                write_share(self._out, part)
            self._out.flush()
        except OSError as error:
            raise TrainingError(f"a worker process ended unexpectedly: {error}") from error

    def receive(self) -> float:
        reply = self._in.read(_REPLY.size)
        if len(reply) < _REPLY.size:
            raise TrainingError("a worker process ended unexpectedly (killed, or out of memory)")
        status, value, length = _REPLY.unpack(reply)
        if status != OK:
            raise error_of(status, self._in.read(length))
        return value

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._out.close()
        self._in.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _serve(make: Callable[[int], Shard], rank: int, source: int, sink: int) -> None:
    """Work until the parent's pipe closes; never return."""
    status = 1
    try:
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
        # Whatever else is open belongs to the parent alone: the run's lock above all.
        low, high = sorted((source, sink))
        os.closerange(3, low)
        os.closerange(low + 1, high)
        os.closerange(high + 1, os.sysconf("SC_OPEN_MAX"))
        with (
            os.fdopen(source, "rb") as reader,
            os.fdopen(sink, "wb") as writer,
            # As in the parent: numbers that are not finite are found in the norm, not here.
            np.errstate(over="ignore", invalid="ignore", divide="ignore"),
        ):
            _loop(make(rank), reader, writer)
        status = 0
    except BrokenPipeError:
        pass  # the parent has failed and listens no more
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _loop(shard: Shard, reader: BinaryIO, writer: BinaryIO) -> None:
    while len(head := reader.read(_HEAD.size)) == _HEAD.size:
        command, step, x, y, count = _HEAD.unpack(head)
        share = [read_share(reader) for _ in range(count)]
        value, status, text = 0.0, OK, b""
        try:
            if command == GRADIENTS:
                value = shard.gradients(share, x, step)
            elif command == REDUCE:
                value = shard.reduce()
            elif command == NORM:
                value = shard.squared_norm()
            elif command == UPDATE:
                shard.update(x, step, y)
        except Exception as error:
            status, text = told(error)
        writer.write(_REPLY.pack(status, value, len(text)) + text)
        writer.flush()
