"""Trainings over several machines: what rank 0 tells the others, and what they do."""

import hashlib
import json
import logging
import platform
import sys
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from llmlab import __version__, build
from llmlab.config import Config
from llmlab.config.plugins import import_plugins
from llmlab.errors import ConfigError, LlmlabError, TrainingError
from llmlab.params import Layout
from llmlab.plugin_errors import described
from llmlab.signals import Signals
from llmlab.train.ranks import CLOSE, END, JOB, Ranks, world
from llmlab.train.trainer import Trainer

log = logging.getLogger("llmlab")


def others(config: Config, model: build.Model, threads: int) -> Ranks | None:
    """Let the other ranks prepare to train `model`, as rank 0; None if there are none.

    The numbers are sent later.

    TrainingError if a rank can't; the message says which, and why.
    """
    if config.workers != "mpi":
        return None
    ranks = world()
    if ranks.size == 1:
        log.warning("workers=mpi: this is the only rank; mpirun -n N python -m llmlab starts more")
        return None
    job = {
        "version": __version__,
        "config": config.to_dict(),
        "model": model.spec,
        "adapter": model.adapter,
        "vocab_size": model.tokenizer.vocab_size,
        "layout": _digest(model.layout),
        "threads": threads,
    }
    text = json.dumps(job).encode()
    ranks.send(JOB, payloads=[b"", *[text] * (ranks.size - 1)])
    ranks.settle(list)
    return ranks


def follow(ranks: Ranks) -> int:
    """Do what rank 0 commands until the end, and leave all files and the terminal to it."""
    log.addHandler(logging.NullHandler())
    warnings.simplefilter("ignore")
    trainer: Trainer | None = None
    try:
        with Signals() as signals:
            while (command := ranks.receive()).kind != END:
                if command.kind in (JOB, CLOSE) and trainer is not None:
                    trainer.close()
                    trainer = None
                if command.kind == JOB:
                    made: list[Trainer] = []
                    ranks.settle(lambda c=command, m=made: _prepare(ranks, c.payload, m))
                    trainer = made[0] if made else None
                elif command.kind != CLOSE:
                    assert trainer is not None
                    trainer.obey(command, signals.received or 0)
    except Exception as error:  # out of step: nothing is left but to end all
        told = f"error: {ranks.where(ranks.rank, platform.node())}: {described(error)}"
        print(told, file=sys.stderr, flush=True)
        ranks.abort(1)
    if trainer is not None:
        trainer.close()
    return 0


def _prepare(ranks: Ranks, payload: bytes, made: list[Trainer]) -> list[float]:
    """Make the trainer of a job; an error says which rank has it."""
    try:
        made.append(_trainer(ranks, json.loads(payload)))
    except LlmlabError as error:
        where = ranks.where(ranks.rank, platform.node())
        raise TrainingError(f"{where}: {error}") from error
    return []


def _trainer(ranks: Ranks, job: Mapping[str, Any]) -> Trainer:
    if job["version"] != __version__:
        raise ConfigError(f"llmlab is {__version__} here, and {job['version']} at rank 0")
    values = {item.name: job["config"].get(item.name) for item in fields(Config)}
    config = Config(**values | {"arguments": {}, "typed": frozenset(values["typed"])})
    if problems := import_plugins(config.plugins):
        raise ConfigError(problems)
    stack = build.new_stack(job["model"], job["vocab_size"], job["adapter"])
    layout = Layout(stack)
    if _digest(layout) != job["layout"]:
        raise ConfigError("the network has other parameters here than at rank 0: other plug-ins?")
    length = job["model"]["max_seq_len"]
    build.check_memory(config, stack, layout, length, job["threads"], ranks.size, ranks.here)
    return Trainer(
        stack,
        layout.zeros(config.dtype),
        build.new_optimizer(config),
        lr=0.0,
        seed=config.seed,
        label_smoothing=config.label_smoothing,
        threads=job["threads"],
        ranks=ranks,
        kernels=config.kernels,
    )


def _digest(layout: Layout) -> str:
    """Return a hash of the names and shapes of all parameters, in order."""
    return hashlib.sha256(repr(list(layout.shapes.items())).encode()).hexdigest()
