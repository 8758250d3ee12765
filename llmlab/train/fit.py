"""The training loop: epochs of batches, one step after the other, from any point."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil, isfinite
from typing import Any, Protocol

import numpy as np

from llmlab.batch import Batch
from llmlab.errors import Diverged, TrainingError
from llmlab.registry import Registry
from llmlab.train.progress import Progress
from llmlab.train.trainer import StepResult, Trainer

log = logging.getLogger("llmlab")


class Batches(Protocol):
    """What the loop needs of a dataset."""

    def num_batches(self, batch_size: int) -> int:
        """Return the number of batches of an epoch."""
        ...

    def batches(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, without the first `start`."""
        ...


CALLBACKS = Registry(
    "callback",
    supplied=(
        *("stage", "steps", "steps_of_epoch", "folder", "trainer", "model", "measure", "metrics"),
        *("tracker", "meta", "signals", "command", "show_progress", "patience", "max_bad_steps"),
        *("eval_every", "log_every", "save_every", "keep", "trial", "sample", "batches"),
    ),
)


class Callback:
    """Something that watches a run; override the methods that you need.

    Registered callbacks are chosen in YAML, under `callbacks`; those arguments in their
    signature that `CALLBACKS` supplies are given to them. A factory may return None: no callback.
    """

    registry = CALLBACKS

    def on_start(self, progress: Progress) -> None:
        """Do something when training starts or continues."""

    def on_step(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Do something after a step; `row` has its metrics, and takes more of them."""

    def on_row(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Do something with what all callbacks have made of a step's row."""

    def on_end(self, progress: Progress) -> None:
        """Do something at the end, also after an error, a stop or a failed start."""


def total_steps(
    dataset: Batches, *, batch_size: int, accumulate: int, epochs: int | None, steps: int | None
) -> int:
    """Return the number of steps of a run, given by `steps` or by `epochs`."""
    if steps is not None:
        return steps
    return (epochs or 0) * ceil(dataset.num_batches(batch_size) / accumulate)


def fit(
    trainer: Trainer,
    dataset: Batches,
    *,
    stage: str,
    batch_size: int,
    steps: int,
    seed: int,
    accumulate: int = 1,
    max_bad_steps: int = 10,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] | Mapping[str, Callback] = (),
) -> Progress:
    """Train until `steps` steps are done, or `progress` is stale.

    A step takes `accumulate` batches, fewer at an epoch's end. The order of batches derives
    from the seed and the epoch, so that a run continued at `progress` is the same run.

    Raises
    ------
    TrainingError
        When `max_bad_steps` steps in a row were not finite, or there is no batch to take.
    """
    progress = progress or Progress()
    count = dataset.num_batches(batch_size)
    watching, told = _named(callbacks), set()
    with _watched(list(watching.values()), progress):
        while progress.step < steps and not progress.is_stale:
            before = progress.step
            batches = dataset.batches(batch_size, seed, progress.epoch, progress.index)
            for group in _groups(batches, accumulate):
                result = trainer.step(group)
                _count(progress, trainer, result, len(group), count)
                _tell(watching, progress, result, _row(stage, progress, result), told)
                if progress.bad >= max(1, max_bad_steps):
                    raise Diverged(
                        f"loss or gradient was not finite in {max_bad_steps} steps in a row, the "
                        f"last at step {progress.step}; the parameters were not changed. "
                        f"Try a lower lr (now {result.lr:g}) or a lower clip_norm"
                    )
                if progress.step >= steps or progress.is_stale:
                    break
            if progress.step == before:
                raise TrainingError(
                    f"no batch after {progress.index} of {count} in epoch {progress.epoch}: the "
                    "data is empty, or shorter than when this run began"
                )
    return progress


def _named(callbacks: Sequence[Callback] | Mapping[str, Callback]) -> Mapping[str, Callback]:
    """Return callbacks by name; those of a list are named by their classes."""
    if isinstance(callbacks, Mapping):
        return callbacks
    return {f"{type(each).__name__} {n}": each for n, each in enumerate(callbacks, 1)}


def _tell(
    watching: Mapping[str, Callback],
    progress: Progress,
    result: StepResult,
    row: dict[str, Any],
    told: set[tuple[str, str]],
) -> None:
    """Let all callbacks add to a step's row, and then see it."""
    for name, callback in watching.items():
        size = len(row)
        callback.on_step(progress, result, row)
        if len(row) != size:
            _check_added(row, size, name, told)
    for callback in watching.values():
        callback.on_row(progress, result, row)


def _check_added(row: dict[str, Any], size: int, name: str, told: set[tuple[str, str]]) -> None:
    """Make the values that a callback has added to a row fit for JSON, or refuse them."""
    for key in list(row)[size:]:
        value = row[key] = row[key].item() if isinstance(row[key], np.generic) else row[key]
        if isinstance(value, float) and not isfinite(value):
            if (name, key) not in told:
                log.warning("callback %s: %s=%s, written as null", name, key, value)
                told.add((name, key))
            row[key] = None
        elif not isinstance(value, bool | int | float | str | None):
            raise TrainingError(
                f"callback {name}: {key} is a {type(value).__name__}; a row takes numbers, text, "
                "true, false and None"
            )


@contextmanager
def _watched(callbacks: Sequence[Callback], progress: Progress) -> Iterator[None]:
    """Call start and end of all callbacks, even if some fail; raise the first error."""
    try:
        for callback in callbacks:
            callback.on_start(progress)
        yield
    except BaseException:
        for error in _end(callbacks, progress):
            log.warning("and then, at the end of training: %r", error)
        raise
    for error in _end(callbacks, progress):
        raise error


def _end(callbacks: Sequence[Callback], progress: Progress) -> list[Exception]:
    """Call the end of all callbacks, and return the errors of those that failed."""
    errors = []
    for callback in callbacks:
        try:
            callback.on_end(progress)
        except Exception as error:
            errors.append(error)
    return errors


def _groups(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _count(p: Progress, trainer: Trainer, result: StepResult, taken: int, count: int) -> None:
    p.step, p.updates = trainer.steps, trainer.updates
    p.tokens += round(result.tokens)
    p.skipped += result.skipped
    p.bad = p.bad + 1 if result.skipped else 0
    clip = trainer.clip_norm
    p.clipped += not result.skipped and clip is not None and result.grad_norm > clip
    p.index += taken
    if p.index >= count:
        p.epoch, p.index = p.epoch + 1, 0
    if not result.skipped:
        epoch = p.epoch + (p.index > 0)
        if epoch != p.loss_epoch:
            p.loss_epoch, p.loss_sum, p.loss_tokens = epoch, 0.0, 0
        p.loss_sum += result.loss * round(result.tokens)
        p.loss_tokens += round(result.tokens)


def _row(stage: str, progress: Progress, result: StepResult) -> dict[str, Any]:
    """Return a step's metrics; all of them are reproducible, none is a time."""
    skipped = result.skipped
    return {
        "stage": stage,
        "step": progress.step,
        "epoch": progress.epoch + (progress.index > 0),
        "tokens": progress.tokens,
        "loss": None if skipped else result.loss,
        "lr": result.lr,
        "grad_norm": None if skipped else result.grad_norm,
        "skipped": progress.skipped,
    }
