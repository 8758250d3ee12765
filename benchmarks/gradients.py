"""Gradients of one batch, ours and PyTorch's: nothing is timed before they agree."""

from typing import Any

import numpy as np
from workloads import Task, Workload

from llmlab.optim.adam import Adam
from llmlab.train.trainer import Trainer


class Check:
    """Compare gradients of one batch: ours and PyTorch's, against PyTorch in float64."""

    def __init__(self, spec: dict[str, Any]):
        import torch
        from peers import as_torch, difference, gradients, network, sizes

        task = Task(Workload(**spec["workload"]))
        batch = max(task.batches(0), key=lambda b: b.tokens)
        arrays, s = dict(task.params().items()), sizes(task)
        true = gradients(network(s, arrays, torch.float64), batch)
        theirs = gradients(network(s, arrays), batch)
        found = our_gradients(task, batch, spec["kernels"], spec["threads"])
        ours = {name: as_torch(name, grad) for name, grad in found.items()}
        self.info = {"ours": difference(ours, true), "torch": difference(theirs, true)}


def our_gradients(task: Task, batch: Any, kernels: str, threads: int) -> dict[str, np.ndarray]:
    """Return llmlab's gradient of the mean loss by name."""
    options: dict[str, Any] = {"lr": 0.0, "threads": threads, "kernels": kernels}
    with Trainer(task.stack, task.params(), Adam(), **options) as trainer:
        trainer.step([batch])
        return {name: grad.astype(np.float64) for name, grad in trainer.grads.items()}
