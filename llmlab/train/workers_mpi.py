"""Workers on other machines: each rank of MPI has the shards of its own machine.

Gradients are added in the order of the shards over all ranks, as forked workers of one machine
add them, so that the numbers are those of as many threads. Each rank updates its part and remembers
its part of the optimizer's memory, if the optimizer can tell what belongs to a part.
"""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from llmlab.optim import Optimizer
from llmlab.params import Arena
from llmlab.train.batch_shards import ShardBatch
from llmlab.train.division import Division
from llmlab.train.ranks import (
    CLOSE,
    FETCH_GRADIENT,
    FETCH_STATE,
    GRADIENTS,
    LOAD,
    REDUCE,
    UPDATE,
    Command,
    Ranks,
)
from llmlab.train.share_stream import read_share, write_share
from llmlab.train.workers import OneMachine, total

_TAG = 1


class Mpi:
    """The shards of all ranks, of which this process is rank 0; elsewhere, those of this rank.

    `begun`: whether the optimizer remembers something already, which the ranks must be given.
    """

    def __init__(
        self,
        ranks: Ranks,
        local: OneMachine,
        optimizer: Optimizer,
        params: Arena,
        grads: Sequence[Arena],
        state: Mapping[str, Arena],
        begun: bool,
    ):
        self.ranks, self._local, self.shard = ranks, local, local.shard
        self._params, self._grads, self._state = params, grads, state
        self._division = Division(ranks, optimizer, grads)
        self._closed = False
        if ranks.rank == 0:
            self.ranks.send(LOAD, reals=(float(begun), 0.0))
            self._load(begun)

    # As rank 0

    def gradients(self, shares: Sequence[Sequence[ShardBatch]], scale: float, step: int) -> float:
        """Fill the gradients; return the sum of the weighted losses."""
        own = len(self._grads)
        of_ranks = [shares[rank * own : (rank + 1) * own] for rank in range(self.ranks.size)]
        payloads = [b"", *(_packed(some) for some in of_ranks[1:])]
        self.ranks.send(GRADIENTS, step, (scale, 0.0), payloads)
        return total(self.ranks.settle(lambda: self._local.losses(of_ranks[0], scale, step), own))

    def reduce(self) -> float:
        """Sum the shards' gradients, each rank a span; return the squared norm of the sum."""
        self.ranks.send(REDUCE)
        return total(self._reduce())

    def update(self, lr: float, step: int, scale: float) -> None:
        """Update the parameters, each rank a part."""
        self.ranks.send(UPDATE, step, (lr, scale))
        self._update(lr, step, scale)

    def fetch_gradient(self) -> None:
        """Bring the gradient from the ranks that have summed it."""
        self.ranks.send(FETCH_GRADIENT)
        self._fetch_gradient()

    def fetch_state(self) -> None:
        """Bring the optimizer's memory from the ranks that have updated it."""
        self.ranks.send(FETCH_STATE)
        self._fetch_state()

    def close(self) -> None:
        """End the workers of this machine, and as rank 0 let the others do so, if they listen."""
        if self.ranks.rank == 0 and self.ranks.in_step and not self._closed:
            self.ranks.send(CLOSE, answered=False)
        self._closed = True
        self._local.close()

    # As another rank

    def obey(self, command: Command, signal: int) -> None:
        """Do what rank 0 has commanded, together with it."""
        x, y = command.reals
        if command.kind == GRADIENTS:
            shares = _unpacked(command.payload, len(self._grads))
            work = lambda: self._local.losses(shares, x, command.step)  # noqa: E731
            self.ranks.settle(work, len(self._grads), signal)
        elif command.kind == REDUCE:
            self._reduce(signal)
        elif command.kind == UPDATE:
            self._update(x, command.step, y, signal)
        elif command.kind == LOAD:
            self._load(bool(x))
        elif command.kind == FETCH_GRADIENT:
            self._fetch_gradient()
        elif command.kind == FETCH_STATE:
            self._fetch_state()

    # All ranks together

    def _load(self, begun: bool) -> None:
        self.ranks.comm.Bcast(self._params.flat, 0)
        for arena in self._state.values() if begun else ():
            if self._division.owned is None:
                self.ranks.comm.Bcast(arena.flat, 0)
            else:
                self._division.spread(arena.flat)
        self.ranks.settle(list)

    def _reduce(self, signal: int = 0) -> list[float]:
        if len(self._grads) == 1:
            self._exchange()
        else:
            self._pass_on()
        return self.ranks.settle(self._local.squared_norms, len(self._grads), signal)

    def _exchange(self) -> None:
        """Give each rank its span of all gradients, and add them in the order of ranks."""
        ranks, flat = self.ranks, self._grads[0].flat
        spans = [at for (at,) in self._division.spans]
        own = spans[ranks.rank]
        got = np.empty((ranks.size, own.stop - own.start), flat.dtype)
        ranks.comm.Alltoallv(
            [flat, ([at.stop - at.start for at in spans], [at.start for at in spans])],
            [got, [got.shape[1]] * ranks.size],
        )
        summed = flat[own]
        np.copyto(summed, got[0])
        for other in got[1:]:
            summed += other

    def _pass_on(self) -> None:
        """Send each span from rank to rank, where each adds its shards, and on to its owner.

        Adding a machine's shards first would be another order. So it is as exact as sending
        each shard's gradient to the owner, and costs the network no more than one of them.
        """
        ranks, comm = self.ranks, self.ranks.comm
        spans = [at for (at,) in self._division.spans]
        last, flat = ranks.size - 1, self._grads[0].flat
        own = np.empty_like(flat[spans[ranks.rank]])
        waiting = [comm.Irecv(own, last, _TAG)] if ranks.rank != last else []
        for owner, at in enumerate(spans):
            summed = np.empty_like(flat[at])
            if ranks.rank:
                comm.Recv(summed, ranks.rank - 1)
            for index, arena in enumerate(self._grads):
                if ranks.rank == index == 0:
                    np.copyto(summed, arena.flat[at])
                else:
                    summed += arena.flat[at]
            if ranks.rank < last:
                comm.Send(summed, ranks.rank + 1)
            elif owner == last:
                own = summed
            else:
                waiting.append(comm.Isend(summed, owner, _TAG))
        for request in waiting:
            request.Wait()
        np.copyto(flat[spans[ranks.rank]], own)

    def _update(self, lr: float, step: int, scale: float, signal: int = 0) -> None:
        division, gradient = self._division, self._grads[0].flat
        if division.owned is None:
            division.share_gradient(gradient)
        else:
            division.to_owner(gradient)
        done = _attempted(lambda: self._local.update(lr, step, scale))
        if division.owned is not None:  # even after an error: the other ranks wait for it
            division.share(self._params.trained.flat)
        self.ranks.settle(done, 0, signal)

    def _fetch_gradient(self) -> None:
        self._division.fetch_gradient(self._grads[0].flat)
        self.ranks.settle(list)

    def _fetch_state(self) -> None:
        for arena in self._state.values() if self._division.owned is not None else ():
            self._division.fetch(arena.flat)
        self.ranks.settle(list)


def _attempted(work: Callable[[], None]) -> Callable[[], list[float]]:
    """Do something now, and return a function that raises the error if it failed."""
    failure: Exception | None = None
    try:
        work()
    except Exception as error:
        failure = error

    def told() -> list[float]:
        if failure is not None:
            raise failure
        return []

    return told


def _packed(shares: Sequence[Sequence[ShardBatch]]) -> bytes:
    """Return the shares of a rank's shards as bytes."""
    sink = io.BytesIO()
    for share in shares:
        sink.write(len(share).to_bytes(8, "little"))
        for part in share:
            write_share(sink, part)
    return sink.getvalue()


def _unpacked(payload: bytes, count: int) -> list[list[ShardBatch]]:
    """Return what `_packed` packed for `count` shards."""
    source = io.BytesIO(payload)
    sizes = (int.from_bytes(source.read(8), "little") for _ in range(count))
    return [[read_share(source) for _ in range(size)] for size in sizes]
