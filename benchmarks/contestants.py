"""The processes that `train.py` and `generate.py` set against each other.

Started by `timing.Contestant`; the first line of standard input says which to be.
"""

from time import perf_counter
from typing import Any

import numpy as np
from timing import memory, serve
from workloads import LR, Task, Workload

MEGABYTE = 1e6
WARM = 3  # turns


class Training:
    """A contestant that trains; what a step is, subclasses say.

    Parameters
    ----------
    spec
        `workload` (fields), `threads`, and what the subclass reads.
    """

    def __init__(self, spec: dict[str, Any]):
        self.task = Task(Workload(**spec["workload"]))
        self.threads = spec["threads"]
        self.stage: str | None = None
        self.before = memory("Pss", "smaps_rollup")
        self.info: dict[str, Any] = {}

    def restart(self) -> None:
        """Forget what warming up taught."""
        raise NotImplementedError

    def begin(self, lr: float) -> None:
        """Make a new optimizer for the parameters as they are."""
        raise NotImplementedError

    def epoch(self, number: int, stage: str | None) -> float:
        """Do the steps of a turn and return their seconds."""
        raise NotImplementedError

    def warm(self) -> None:
        """Let compilers and buffers settle: ours have their final size after two steps."""
        for _ in range(WARM):
            self.epoch(0, None)

    def turn(self, number: int, stage: str | None = None) -> dict[str, Any]:
        """Do the steps of turn `number`; return seconds, steps and target tokens.

        They are done twice, and the second time counts: training is long, and the first steps
        after a pause find cold caches and sleeping workers. With a stage it is training, once.
        """
        if stage != self.stage:
            self.stage = stage
            if stage == "pretrain":
                self.restart()
            self.begin(LR[stage or "pretrain"])
        batches = list(self.task.batches(number, stage))
        if stage is None:
            self.epoch(number, stage)
        return {
            "seconds": self.epoch(number, stage),
            "steps": len(batches),
            "tokens": sum(batch.tokens for batch in batches),
            "flops": sum(self.task.flops(batch) for batch in batches),
        }

    def finish(self) -> dict[str, Any]:
        """Return the peak of resident memory and the growth since before the first step."""
        after = memory("Pss", "smaps_rollup")
        peak = memory("VmHWM")
        grown = None if after is None or self.before is None else (after - self.before) / MEGABYTE
        return {"peak": peak and peak / MEGABYTE, "grown": grown}


class Llmlab(Training):
    """llmlab; a turn includes making the batches, as training does."""

    def __init__(self, spec: dict[str, Any]):
        from llmlab.optim.adam import Adam
        from llmlab.train.memory import training_memory

        _load(spec["kernels"])
        super().__init__(spec)
        self.kernels = spec["kernels"]
        self.params, self.trainer = self.task.params(), None
        self.begin(LR["pretrain"])
        largest = max((b.inputs.shape for b in self.task.batches(0)), key=lambda s: s[0] * s[1])
        summary = training_memory(
            self.task.stack,
            self.task.layout,
            Adam(),
            batch=largest[0],
            time=largest[1],
            threads=self.threads,
        )
        self.info = {"summary": summary.total / MEGABYTE}
        if self.task.workload.kind == "rustgpt":
            self.info["epoch_tokens"] = self.task.epoch_tokens
        self.warm()

    def restart(self) -> None:
        """Take the first parameters again."""
        self.params = self.task.params()

    def begin(self, lr: float) -> None:
        """Open a new trainer."""
        from llmlab.optim.adam import Adam
        from llmlab.train.trainer import Trainer

        self.close()
        self.trainer = Trainer(
            self.task.stack,
            self.params,
            Adam(),
            lr=lr,
            clip_norm=self.task.workload.clip_norm,
            threads=self.threads,
            kernels=self.kernels,
        )
        self.params = self.trainer.params

    def epoch(self, number: int, stage: str | None) -> float:
        """Do the steps of a turn."""
        assert self.trainer is not None
        start = perf_counter()
        for batch in self.task.batches(number, stage):
            self.trainer.step([batch])
        return perf_counter() - start

    def loss(self, stage: str) -> dict[str, Any]:
        """Return the mean loss over a stage's data."""
        from llmlab.measure.losses import Evaluator
        from llmlab.network import Network

        evaluator = Evaluator(Network(self.task.stack, self.params))
        return {"loss": evaluator.measure(self.task.batches(0, stage)).loss}

    def close(self) -> None:
        """End the workers."""
        if self.trainer is not None:
            self.trainer.close()


def _load(kernels: str) -> None:
    """Do a step of a tiny network, so that the code of all kernels is in memory."""
    from gradients import our_gradients

    task = Task(Workload("tiny", "gpt", 2, 1, 2, 16, 8, 11))
    our_gradients(task, next(task.batches(0)), kernels, 1)


class Torch(Training):
    """PyTorch; tensors are made outside the timed part.

    The eager one steps with `torch.optim.Adam` as it comes, the compiled one with fused AdamW
    without decay, which is the same rule.
    """

    def __init__(self, spec: dict[str, Any]):
        import torch
        from peers import network, sizes

        self.torch, self.compiled = torch, spec["compiled"]
        torch.set_num_threads(spec["threads"])
        super().__init__(spec)
        self.net = network(sizes(self.task), dict(self.task.params().items()))
        if self.compiled:
            lengths = {batch.inputs.shape for batch in self.task.batches(0)}
            # In place: parameters keep their names.
            self.net.compile(dynamic=len(lengths) > 1)
        self.begin(LR["pretrain"])
        self.warm()

    def restart(self) -> None:
        """Take the first parameters again."""
        from peers import fill

        fill(self.net, dict(self.task.params().items()))

    def begin(self, lr: float) -> None:
        """Make a new optimizer."""
        parameters = list(self.net.parameters())
        if self.compiled:
            optim = self.torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, fused=True)
        else:
            optim = self.torch.optim.Adam(parameters, lr=lr)
        self.parameters, self.optimizer = parameters, optim

    def epoch(self, number: int, stage: str | None) -> float:
        """Do the steps of a turn."""
        from peers import tensors

        batches = [tensors(batch) for batch in self.task.batches(number, stage)]
        clip = self.task.workload.clip_norm
        net, optimizer, parameters = self.net, self.optimizer, self.parameters
        limit = self.torch.nn.utils.clip_grad_norm_
        start = perf_counter()
        for ids, targets in batches:
            optimizer.zero_grad(set_to_none=True)
            net(ids, targets).backward()
            limit(parameters, clip)
            optimizer.step()
        return perf_counter() - start

    def loss(self, stage: str) -> dict[str, Any]:
        """Return the mean loss over a stage's data."""
        from peers import tensors

        total = tokens = 0.0
        with self.torch.inference_mode():
            for batch in self.task.batches(0, stage):
                total += float(self.net(*tensors(batch))) * batch.tokens
                tokens += batch.tokens
        return {"loss": total / tokens}


class Peak:
    """The fastest product there is: square single-precision matrices in NumPy."""

    def __init__(self, spec: dict[str, Any]):
        self.a = np.ones((spec["size"], spec["size"]), np.float32)
        self.out = np.empty_like(self.a)
        self.turn(0)

    def turn(self, number: int, stage: str | None = None) -> dict[str, Any]:
        """Multiply three times; the best counts."""
        times = []
        for _ in range(3):
            start = perf_counter()
            np.matmul(self.a, self.a, out=self.out)
            times.append(perf_counter() - start)
        return {"seconds": min(times), "flops": 2 * len(self.a) ** 3}


def make(spec: dict[str, Any]) -> Any:
    """Return the worker that the first request asks for."""
    kind = spec["kind"]
    if kind == "floor":
        from floor import Floor

        return Floor(spec)
    if kind.startswith("decode"):
        from decoders import LlmlabDecoding, TorchDecoding

        return (TorchDecoding if kind == "decode_torch" else LlmlabDecoding)(spec)
    if kind == "check":
        from gradients import Check

        return Check(spec)
    return {"llmlab": Llmlab, "torch": Torch, "peak": Peak}[kind](spec)


if __name__ == "__main__":
    serve(make)
