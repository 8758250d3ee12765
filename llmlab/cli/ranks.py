"""Started by mpirun: rank 0 runs the command line, and the other ranks work for it."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmlab.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from llmlab.config import Config
    from llmlab.train.ranks import Ranks

# What Open MPI, MPICH and its relatives, and SLURM's own starter tell a process.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_OF_SLURM = ("PMIX_RANK", "SLURM_STEP_NUM_TASKS")
_ON_MACHINE = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
_WAIT = 5.0  # seconds in which the rank that tells of an error can do so


def launched() -> int:
    """Return how many processes mpirun, or what does its work, says that it has started."""
    sizes = [os.environ[name] for name in _SIZES if name in os.environ]
    if _OF_SLURM[0] in os.environ:
        sizes.append(os.environ.get(_OF_SLURM[1], "1"))
    return max((int(size) for size in sizes if size.isdecimal()), default=1)


def run(argv: Sequence[str], work: Callable[[], int]) -> int:
    """Do the work of a command line, at rank 0 if there are several; return the exit code."""
    if launched() == 1 and "workers=mpi" not in argv:
        return work()
    ranks = _ranks()
    if ranks.size == 1:
        return work()
    if ranks.rank:
        from llmlab.phases.following import follow

        return follow(ranks)
    code = 1
    try:
        code = work()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        ranks.end(code)
    return code


def refuse_sweep(argv: Sequence[str]) -> None:
    """Refuse a sweep under mpirun: its jobs would each want all ranks."""
    if launched() > 1 or "workers=mpi" in argv:
        raise ConfigError(
            "workers=mpi: shares the batches of one training, so a sweep or a search can't use it; "
            "start that without mpirun, or each of its trainings with it"
        )


def check(config: "Config") -> None:
    """Refuse ranks that the training wouldn't use, or that it has no samples for."""
    if config.phase not in ("full", "pretrain", "tune"):
        return
    if config.workers != "mpi":
        if launched() > 1:
            raise ConfigError(
                f"workers={config.workers}: mpirun has started {launched()} processes, of which "
                "one would work; add workers=mpi, or start without mpirun"
            )
        return
    from llmlab.train.ranks import world

    ranks = world().size
    threads = 1 if config.threads == "auto" else int(config.threads)
    if ranks * threads > config.batch_size and ranks > 1:
        each = f", each with threads={threads}" if threads > 1 else ""
        raise ConfigError(
            f"workers=mpi: {ranks} ranks{each}, more than batch_size={config.batch_size}, the "
            f"samples that they share; start fewer, or raise batch_size"
        )


def _ranks() -> "Ranks":
    """Return all ranks; an error is told once on each machine."""
    from llmlab.train.ranks import world

    try:
        return world()
    except ResourceError:
        if any(os.environ.get(name, "0") != "0" for name in _ON_MACHINE):
            # mpirun ends all as soon as one ends, also the one that is about to tell.
            time.sleep(_WAIT)
            raise SystemExit(5) from None
        raise
