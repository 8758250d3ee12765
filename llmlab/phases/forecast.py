"""What is said before the first step of a training: how much there is to do, and for how long."""

import logging
from itertools import islice

from llmlab.batch import Batch
from llmlab.build import Model
from llmlab.config import Config
from llmlab.runs.sweep import duration
from llmlab.text import Dataset
from llmlab.train.fit import Progress
from llmlab.train.profiling import sgemm_peak

log = logging.getLogger("llmlab")

_LOOKED_AT = 16  # steps: batches are of different lengths
_SHARE_OF_PEAK, _CALLS = 0.3, 2e-4  # what trainings reach of a product's speed; seconds a layer


def forecast(
    config: Config, model: Model, data: Dataset, progress: Progress, steps: int, shards: int
) -> None:
    """Log steps, target tokens and time from `progress` to step `steps`, with so many shards."""
    left = steps - progress.step
    batches = data.batches(config.batch_size, config.seed, progress.epoch, progress.index)
    found = list(islice(batches, _LOOKED_AT * config.accumulate))
    if not found or not left:
        return
    each = max(1.0, len(found) / config.accumulate)
    tokens = sum(batch.tokens for batch in found) / each
    log.info(
        "%s: %s step%s, about %s target tokens and %s",
        config.phase,
        f"{left:,}",
        "s" * (left != 1),
        f"{tokens * left:,.0f}",
        duration(_seconds(config, model, found, each, shards) * left),
    )


def _seconds(
    config: Config, model: Model, batches: list[Batch], steps: float, shards: int
) -> float:
    """Return about how long a step takes: its operations, and what calls of layers cost."""
    work = 3 * sum(model.stack.flops(*batch.inputs.shape) for batch in batches) / steps
    speed = _SHARE_OF_PEAK * sgemm_peak(config.dtype, size=256, rounds=3)
    return _CALLS * sum(1 for _ in model.stack.leaves()) + work / speed / shards
