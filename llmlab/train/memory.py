"""How much memory a training step needs, from the layers' own counts."""

import os
from dataclasses import dataclass

import numpy as np

from llmlab.layers import Layer
from llmlab.optim import Optimizer
from llmlab.params import Layout


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step by purpose."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.parameters + self.gradients + self.optimizer + self.activations


def training_memory(
    stack: Layer,
    layout: Layout,
    optimizer: Optimizer,
    *,
    batch: int,
    time: int,
    threads: int = 1,
    dtype: str = "float32",
    average: bool = False,
) -> Memory:
    """Return what a step on (batch, time) tokens needs; nothing is allocated.

    Activations are what forward keeps plus what backward makes. `threads` shards share the
    rows of the batch, and each has gradients of its own. With `average` a running mean of the
    parameters counts as the optimizer's.
    """
    item = np.dtype(dtype).itemsize
    rows = -(-batch // threads)
    return Memory(
        parameters=layout.size * item,
        gradients=layout.size * item * threads,
        optimizer=layout.size * item * (len(optimizer.slots) + average),
        activations=stack.elements(rows, time) * item * threads,
    )


def available_memory() -> int | None:
    """Return the bytes that a new process could take, or None if the system doesn't tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None
