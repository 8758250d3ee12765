"""What a training takes of the machines: processors, memory."""

from dataclasses import asdict

from llmlab.config import Config
from llmlab.errors import ResourceError
from llmlab.layers import Stack
from llmlab.optim import OPTIMIZERS
from llmlab.params import Layout
from llmlab.runs.provenance import usable_cpus
from llmlab.train.memory import available_memory, training_memory
from llmlab.train.ranks import world

TOKENS_PER_THREAD = 320  # fewer, and handing over costs more than a second core gives


def check_memory(
    config: Config,
    stack: Stack,
    layout: Layout,
    time: int,
    threads: int,
    ranks: int = 1,
    here: int = 1,
) -> None:
    """Raise a ResourceError if a training step can't fit into the memory that is free.

    Of all `ranks`, each with so many threads, `here` are on this machine.
    """
    needed = training_memory(
        stack,
        layout,
        OPTIMIZERS.build(config.optimizer, "optimizer"),
        batch=-(-config.batch_size // ranks),
        time=time,
        threads=threads,
        dtype=config.dtype,
        average=config.ema is not None,
    )
    free = available_memory()
    if free is None or needed.total * here <= free:
        return
    sizes = {name: here * size / 2**30 for name, size in asdict(needed).items()}
    parts = ", ".join(f"{name} {size:,.1f}" for name, size in sizes.items())
    raise ResourceError(
        f"a training step needs about {here * needed.total / 2**30:,.1f} GiB ({parts}), and "
        f"{free / 2**30:,.1f} GiB are free: lower batch_size={config.batch_size} or the sizes of "
        "the model"
    )


def machines(config: Config) -> tuple[int, int]:
    """Return the number of ranks that share a batch, and how many of them are on this machine."""
    if config.workers != "mpi":
        return 1, 1
    found = world()
    return found.size, found.here


def resolve_threads(
    threads: int | str, batch_size: int, max_seq_len: int, ranks: int = 1, here: int = 1
) -> int:
    """Return each rank's number of shards: as typed, or what pays for this batch here.

    Of all `ranks`, `here` share the processors of this machine.
    """
    if threads != "auto":
        return int(threads)
    enough = batch_size * max_seq_len // TOKENS_PER_THREAD
    return max(1, min(usable_cpus() // here, batch_size // ranks, enough // ranks))
