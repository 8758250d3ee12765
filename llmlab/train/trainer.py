"""One training step: gradients of a batch, clipping, an update."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from llmlab import kernels as kernel_sets
from llmlab.batch import Batch
from llmlab.layers import Layer
from llmlab.optim import Optimizer, Schedule
from llmlab.params import Arena, Layout
from llmlab.train.batch_shards import Shard, ShardBatch, cut
from llmlab.train.division import parts_of
from llmlab.train.ema import WeightAverage
from llmlab.train.ranks import Command, Ranks
from llmlab.train.workers import Alone, OneMachine, Workers
from llmlab.train.workers_forked import Forked, can_fork, shared
from llmlab.train.workers_mpi import Mpi


@dataclass(frozen=True)
class StepResult:
    """The result of one step.

    Attributes
    ----------
    loss
        Mean over the target tokens, in nats.
    grad_norm
        L2 norm of the whole gradient before clipping.
    tokens
        Weight of the targets.
    skipped
        Whether loss or gradient were not finite, so that nothing was updated.
    """

    loss: float
    grad_norm: float
    lr: float
    tokens: float
    skipped: bool


class Trainer:
    """Train a stack; the parameters live in `params`, the optimizer's memory in `state`.

    While a trainer is open, BLAS uses one thread a shard. Close it, or use it as a context manager.

    Parameters
    ----------
    stack
        The network: token ids to logits.
    params
        Initial values; they are copied.
    optimizer, schedule
        The rule, and the factor on `lr` at each step (None: always 1).
    lr
        Learning rate.
    clip_norm
        Greatest L2 norm of the whole gradient; None for no clipping.
    seed
        Of dropout; None turns it off.
    label_smoothing
        Share of each target that all tokens get alike; the loss is then that of these targets.
    ema
        Decay of a running mean of the parameters, see `averaged`; None for none.
    threads
        Number of shards that a batch is divided into, one processor core each. Where processes
        can't be forked (Windows, macOS) there is one shard, and BLAS gets the threads.
    ranks
        The machines that share the work, each with so many threads: this trainer's at rank 0, and
        at the others one that `obey` commands. None: this machine alone.
    kernels
        Name of the kernel set, or the set itself.
    prepare
        Called with the trainer before there are workers, to `load` a state: what is given back
        then is free, while later the workers would still hold it.
    """

    def __init__(
        self,
        stack: Layer,
        params: Arena,
        optimizer: Optimizer,
        *,
        lr: float,
        schedule: Schedule | None = None,
        clip_norm: float | None = 5.0,
        seed: int | None = 0,
        label_smoothing: float = 0.0,
        ema: float | None = None,
        threads: int = 1,
        ranks: Ranks | None = None,
        kernels: Any = "numpy",
        prepare: Callable[["Trainer"], None] | None = None,
    ):
        optimizer.check(params.layout)
        self.stack, self.optimizer, self.schedule = stack, optimizer, schedule
        self.lr, self.clip_norm, self.seed = lr, clip_norm, seed
        self.label_smoothing = label_smoothing
        self.kernels = kernel_sets.load(kernels) if isinstance(kernels, str) else kernels
        self.threads = threads if can_fork() else 1
        self.ranks = ranks
        self.shards = self.threads * (1 if ranks is None else ranks.size)
        self.layout: Layout = params.layout
        dtype = params.flat.dtype
        trained = self.layout.trained
        self.params = self.layout.zeros(dtype, self._memory(self.layout, dtype))
        self.params.flat[:] = params.flat
        self.state = {
            name: trained.zeros(dtype, self._memory(trained, dtype))
            for name in optimizer.state_names
        }
        self._average = None if ema is None else WeightAverage(self.params, ema)
        self._grads = [
            self.layout.gradients(dtype, self._memory(trained, dtype)) for _ in range(self.threads)
        ]
        self.steps = self.updates = 0
        self.batches: Sequence[Batch] = ()  # of the last step
        self._workers: Workers | None = None
        self._blas: Any = threadpool_limits(threads // self.threads, user_api="blas")
        try:
            if prepare is not None:
                prepare(self)
            self._workers = self._start()
        except BaseException:
            self._blas.restore_original_limits()
            raise

    @property
    def grads(self) -> Arena:
        """The gradient of the last step, before clipping."""
        self._working.fetch_gradient()
        return self._grads[0]

    @property
    def averaged(self) -> Arena:
        """The parameters to use: their running mean if there is one."""
        return self.params if self._average is None else self._average.arena

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """Do one update with the mean loss over the target tokens of all `batches`.

        A step whose loss or gradient is not finite changes nothing but the count of steps.
        """
        self.batches = batches
        lr = self.lr * (1.0 if self.schedule is None else self.schedule(self.steps))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            loss, norm, tokens = self._gradients(batches)
            fine = isfinite(loss) and isfinite(norm)
            if fine:
                clip = self.clip_norm
                scale = 1.0 if clip is None or norm <= clip else clip / norm
                self._working.update(lr, self.updates + 1, scale)
                self.updates += 1
                if self._average is not None:
                    self._average.update(self.params, self.updates, self._working.shard.ctx)
        self.steps += 1
        return StepResult(loss, norm, lr, tokens, not fine)

    def _gradients(self, batches: Sequence[Batch]) -> tuple[float, float, float]:
        """Return mean loss, norm of the gradient and weight of the targets."""
        tokens = sum(batch.tokens for batch in batches)
        shares: list[list[ShardBatch]] = [[] for _ in range(self.shards)]
        row = 0
        for batch in batches:
            for own, part in zip(shares, cut(batch, self.shards, row), strict=False):
                own.append(part)
            row += len(batch.inputs)
        scale = 1 / tokens if tokens else 0.0
        loss = self._working.gradients(shares, scale, self.steps) * scale
        return loss, sqrt(self._working.reduce()), tokens

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything learned or remembered, by the names that checkpoints use."""
        if self._workers is not None:
            self._workers.fetch_state()
        arrays = {f"params/{name}": view for name, view in self.params.items()}
        for kind, arena in self.state.items():
            arrays |= {f"optimizer/{kind}/{name}": view for name, view in arena.items()}
        if self._average is not None:
            arrays |= {f"ema/{name}": view for name, view in self._average.arena.items()}
        return arrays

    def load(self, arrays: Mapping[str, np.ndarray], steps: int, updates: int) -> None:
        """Continue from `arrays` after `steps` steps, `updates` of which changed something."""
        for name, view in self.arrays().items():
            view[...] = arrays[name]
        self.steps, self.updates = steps, updates

    def close(self) -> None:
        """End the workers and give BLAS its threads back."""
        self._working.close()
        if self._blas is not None:
            self._blas.restore_original_limits()
            self._blas = None

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _working(self) -> Workers:
        assert self._workers is not None
        return self._workers

    def _start(self) -> Workers:
        """Start the workers of this machine, and at rank 0 give the other ranks the state."""
        forked = self.threads > 1
        here: OneMachine = Forked(self._shard, self.threads) if forked else Alone(self._shard(0))
        if self.ranks is None:
            return here
        arenas = (self.params, self._grads, self.state)
        return Mpi(self.ranks, here, self.optimizer, *arenas, begun=self.updates > 0)

    def signal_elsewhere(self) -> int:
        """Return the number of a signal that has reached another rank; 0 for none."""
        return 0 if self.ranks is None else self.ranks.signal

    def obey(self, command: Command, signal: int = 0) -> None:
        """Do what rank 0 has commanded, as another rank; `signal` has reached this one."""
        assert isinstance(self._workers, Mpi)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self._workers.obey(command, signal)

    def _memory(self, layout: Layout, dtype: np.dtype) -> np.ndarray | None:
        """Return memory that the workers will share, if there are to be any."""
        return shared(layout.size, dtype) if self.threads > 1 else None

    def _shard(self, rank: int) -> Shard:
        """Return the `rank`-th shard of this machine."""
        ranks = self.ranks
        return Shard(
            self.stack,
            self.params,
            self._grads,
            self.state,
            self.optimizer,
            self.kernels,
            rank,
            self.seed,
            self.label_smoothing,
            None if ranks is None else parts_of(self.optimizer, self._grads, ranks, rank),
        )
