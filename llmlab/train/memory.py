"""How much memory a training step needs, before any of it is allocated."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llmlab.layers import Stack
from llmlab.optim import Optimizer
from llmlab.params import Layout
from llmlab.train.activations import activations

WORKER = 8 * 2**20  # bytes of a forked process besides its arrays: 5.5 MB measured


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step by purpose."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    workers: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(asdict(self).values())


def training_memory(
    stack: Stack,
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

    Activations are what the workspace holds at most; 0 if a layer can't be measured. `threads`
    shards share the rows of the batch, and each has its own gradients; all but one are processes.
    With `average`, a running mean of the parameters counts as the optimizer's.
    """
    optimizer.check(layout)
    item, trained = np.dtype(dtype).itemsize, layout.trained.size
    found = activations(stack, layout, -(-batch // threads), time, dtype)
    return Memory(
        parameters=layout.size * item,
        gradients=trained * item * threads,
        optimizer=(trained * len(optimizer.state_names) + layout.size * average) * item,
        activations=0 if found is None else found.peak * threads,
        workers=WORKER * (threads - 1),
    )


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process could still allocate; None if the system doesn't tell.

    What the machine has available, or a control group of the process (a container, a job of a
    cluster) if that allows less. `root` is where the system's own files are.
    """
    left = [*_machine(root), *_groups(root)]
    return min(left) if left else None


def _machine(root: Path) -> Iterator[int]:
    """Yield the memory that the machine reports as available."""
    with suppress(OSError, ValueError, AttributeError):
        for line in (root / "proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
                return
    with suppress(OSError, ValueError, AttributeError):
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups(root: Path) -> Iterator[int]:
    """Yield what is left of the limit of each control group, version 1 or 2, with a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base, limit, used = root / "sys/fs/cgroup", "memory.max", "memory.current"
        if "memory" in controllers.split(","):
            base, limit, used = base / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        elif controllers:
            continue
        # Inside a container the path may be one of the host, and only the top is to be seen.
        inner = [part for part in path.split("/") if part]
        for depth in range(len(inner), -1, -1):
            group = base.joinpath(*inner[:depth])
            with suppress(OSError, ValueError):  # no such group, or "max": no limit
                most = int((group / limit).read_text())
                yield max(0, most - int((group / used).read_text()) + _cached(group))


def _cached(group: Path) -> int:
    """Return the bytes of cached files in a group, which count as used but can be freed."""
    words = (group / "memory.stat").read_text().split()
    stat = dict(zip(words[::2], words[1::2], strict=True))
    names = ("active_file", "inactive_file")
    return sum(int(stat.get(f"total_{name}", stat.get(name, 0))) for name in names)
