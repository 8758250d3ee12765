"""How many steps a training has: what epochs, steps or a budget come to."""

import logging
import time
from itertools import cycle, islice
from statistics import median

from llmlab import build
from llmlab.config import Config
from llmlab.phases.following import others
from llmlab.phases.outcome import flops_of_step
from llmlab.runs import Run
from llmlab.text import Dataset
from llmlab.train.fit import total_steps
from llmlab.train.trainer import Trainer

log = logging.getLogger("llmlab")

_WARM, _TIMED = 2, 20  # steps before the clock counts, and at most behind it
_SHARE = 0.05  # of the budget, for measuring


def steps_of(config: Config, run: Run, model: build.Model, training: Dataset) -> int:
    """Return the steps of a stage; at least one.

    With a budget of seconds the speed is measured once and recorded in run.json, so that a run
    which is continued has the same schedule.
    """
    kind, amount = config.budget["type"], config.budget["amount"]
    batches, accumulate = training.num_batches(config.batch_size), config.accumulate
    if kind == "none":
        sizes = {"batch_size": config.batch_size, "accumulate": accumulate}
        return total_steps(training, **sizes, epochs=config.epochs, steps=config.steps)
    if kind == "seconds":
        return max(1, int(amount / _seconds_of_step(config, run, model, training)))
    each = 1.0
    if kind == "flops":
        each = flops_of_step(config, model)
    elif kind == "tokens":
        each = training.report["tokens"] / batches * accumulate
    return max(1, int(amount / each))


def _seconds_of_step(config: Config, run: Run, model: build.Model, training: Dataset) -> float:
    """Return how long a step takes, as recorded or measured now."""
    known = run.record.setdefault("seconds_per_step", {})
    if config.phase not in known:
        known[config.phase] = measured_speed(config, model, training)
        text = "budget of %g seconds: a step takes %.4g s, so there are %d"
        steps = max(1, int(config.budget["amount"] / known[config.phase]))
        log.info(text, config.budget["amount"], known[config.phase], steps)
    return known[config.phase]


def measured_speed(config: Config, model: build.Model, training: Dataset) -> float:
    """Return the median time of the first steps, which are done on a copy and forgotten."""
    length, (ranks, here) = model.max_seq_len, build.machines(config)
    threads = build.resolve_threads(config.threads, config.batch_size, length, ranks, here)
    batches = cycle(training.batches(config.batch_size, config.seed, 0))
    times: list[float] = []
    trainer = Trainer(
        model.stack,
        model.params,
        build.new_optimizer(config),
        lr=config.lr or 0.0,
        clip_norm=config.clip_norm,
        seed=config.seed,
        ema=config.ema,
        threads=threads,
        ranks=others(config, model, threads),
        kernels=config.kernels,
    )
    with trainer:
        while len(times) < _WARM + _TIMED:
            began = time.perf_counter()
            trainer.step(list(islice(batches, config.accumulate)))
            times.append(time.perf_counter() - began)
            if len(times) > _WARM + 2 and sum(times) > _SHARE * config.budget["amount"]:
                break
    return median(times[_WARM:])
