"""The matrix products of a step and nothing else: the floor of what a step can take.

One real step is run with kernels that note every product's operands; then those products alone
are repeated on the same memory, in the same order and sharded the same way.
"""

import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from workloads import Task, Workload

from llmlab import kernels as kernel_sets
from llmlab.train.batch_shards import ShardBatch, cut
from llmlab.workspace import Context

REFRESH = -1  # a command besides the numbers of steps
Call = tuple[np.ndarray, np.ndarray, np.ndarray]


class Recorder:
    """The numpy kernels, noting the operands of each product of two matrices.

    Sums of rows, which are products with a vector of ones, and the lookup's one-hot product are
    left out: a step could do without them.
    """

    def __init__(self) -> None:
        self._kernels = kernel_sets.load("numpy")
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels, name)

    def product(self, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write a @ b to `out`."""
        if min(a.ndim, b.ndim) >= 2:
            self.calls.append((a, b, out))
        return self._kernels.product(a, b, out)

    def add_rows(self, *arguments: Any) -> None:
        """Add looked-up rows' gradients without noting how."""
        known = list(self.calls)
        self._kernels.add_rows(*arguments)
        self.calls = known


def flops(calls: list[Call]) -> int:
    """Return the operations of some products."""
    return sum(2 * out.size * a.shape[-1] for a, _, out in calls)


class Share:
    """One process's part of every step."""

    def __init__(self, task: Task, shares: list[ShardBatch | None]):
        self._stack, self._shares = task.stack, shares
        self._params, self._grads = task.params(), task.layout.zeros()
        self._recorder = Recorder()
        self._ctx = Context(self._recorder)
        # Longest first, and once more: then the workspace has its final size for good.
        for share in sorted(filter(None, shares), key=lambda share: -share.batch.inputs.size):
            self._run(share)
        self.steps = [self._run(share) for share in shares]

    def refresh(self) -> None:
        """Run the steps for real: products alone feed on their own results."""
        for share in self._shares:
            self._run(share)

    def repeat(self, step: int) -> None:
        """Do the products of a step."""
        for a, b, out in self.steps[step]:
            np.matmul(a, b, out=out)

    def _run(self, share: ShardBatch | None) -> list[Call]:
        """Do a step's forward and backward, and return the products."""
        if share is None:
            return []
        self._recorder.calls = []
        ctx = self._ctx
        batch = share.batch
        ctx.begin(*batch.inputs.shape)
        ctx.fresh = set(self._grads.ids)
        logits, cache = self._stack.forward(self._params.tree, batch.inputs.reshape(-1), ctx)
        targets, weights = batch.targets.reshape(-1), batch.weights.reshape(-1)
        _, dlogits = ctx.kernels.cross_entropy(ctx, logits, targets, weights, 1.0)
        self._stack.backward(self._params.tree, self._grads.tree, dlogits, cache, ctx)
        return self._recorder.calls


class Floor:
    """Repeat the products of each step, with a forked process for every further shard."""

    def __init__(self, spec: dict[str, Any]):
        task, threads = Task(Workload(**spec["workload"])), spec["threads"]
        self._limit = threadpool_limits(1, user_api="blas")
        shares = [cut(batch, threads) for batch in task.batches(0)]
        parts = [[p[r] if r < len(p) else None for p in shares] for r in range(threads)]
        self._others = [_fork(task, part) for part in parts[1:]]
        self._own = Share(task, parts[0])
        noted = sum(map(flops, self._own.steps))
        noted += sum(int.from_bytes(os.read(source, 8), "little") for _, source in self._others)
        self._tokens = sum(batch.tokens for batch in task.batches(0))
        self.info = {"share": noted / sum(task.flops(batch) for batch in task.batches(0))}

    def turn(self, number: int, stage: str | None = None) -> dict[str, Any]:
        """Repeat the products of all steps twice; return the seconds of the second time."""
        self._all(REFRESH, self._own.refresh)
        start = 0.0
        for _ in range(2):
            start = perf_counter()
            for step in range(len(self._own.steps)):
                self._all(step, lambda step=step: self._own.repeat(step))
        return {"seconds": perf_counter() - start, "tokens": self._tokens}

    def finish(self) -> dict[str, Any]:
        """Have nothing to say about memory."""
        return {}

    def _all(self, command: int, own: Callable[[], Any]) -> None:
        """Do something in every process at once."""
        for sink, _ in self._others:
            os.write(sink, command.to_bytes(8, "little", signed=True))
        own()
        for _, source in self._others:
            os.read(source, 1)


def _fork(task: Task, shares: list[ShardBatch | None]) -> tuple[int, int]:
    """Start a process that does its share of a step when it reads its number; return its pipes."""
    (source, to_child), (from_child, sink) = os.pipe(), os.pipe()
    if os.fork():
        os.close(source)
        os.close(sink)
        return to_child, from_child
    os.close(to_child)
    try:
        share = Share(task, shares)
        os.write(sink, sum(map(flops, share.steps)).to_bytes(8, "little"))
        while len(command := os.read(source, 8)) == 8:
            step = int.from_bytes(command, "little", signed=True)
            share.refresh() if step == REFRESH else share.repeat(step)
            os.write(sink, b"1")
    finally:
        os._exit(0)
