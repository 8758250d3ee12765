"""A report of each step that was not finite."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.atomic_write import replace_file, replace_text
from llmlab.batch import Batch
from llmlab.network import Network
from llmlab.train.fit import CALLBACKS, Callback
from llmlab.train.progress import Progress
from llmlab.train.trainer import StepResult, Trainer

log = logging.getLogger("llmlab")


@CALLBACKS.register("diagnosis")
class Diagnosis(Callback):
    """Report skipped steps; for the one that ends the run, save the layer and the batch."""

    def __init__(self, trainer: Trainer, folder: Path, max_bad_steps: int = 10):
        self._trainer, self._folder, self._limit = trainer, folder, max_bad_steps

    def on_step(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Look at the step if it was skipped."""
        if not result.skipped:
            return
        if progress.bad == 1:
            log.warning(
                "step %d skipped: loss %s, gradient norm %s; the parameters were not changed",
                progress.step,
                result.loss,
                result.grad_norm,
            )
        if progress.bad == self._limit:
            self._save(progress, result)

    def _layer(self) -> str | None:
        """Return the first bad layer; a whole batch at once may not fit into memory."""
        trainer = self._trainer
        try:
            network = Network(trainer.stack, trainer.params, kernels=trainer.kernels)
            return first_bad_layer(network, trainer.batches)
        except MemoryError:
            return "unknown: not enough memory to look for it"

    def _save(self, progress: Progress, result: StepResult) -> None:
        trainer = self._trainer
        found = {
            "step": progress.step,
            "loss": str(result.loss),
            "grad_norm": str(result.grad_norm),
            "layer": self._layer(),
            "gradients": [
                name for name, view in trainer.grads.items() if not np.isfinite(view).all()
            ],
        }
        path = self._folder / "diagnostics.json"
        replace_text(path, json.dumps(found, indent=2) + "\n")
        arrays = {
            f"{name}.{index}": array
            for index, batch in enumerate(trainer.batches)
            for name, array in batch.arrays().items()
        }
        replace_file(path.with_suffix(".npz"), lambda file: np.savez(file, **arrays))  # pyright: ignore[reportArgumentType]
        log.error(
            "first layer whose output is not finite: %s; details in %s, the batch beside it",
            found["layer"] or "none, the backward pass",
            path,
        )


class _Found(Exception):
    """End a pass at a layer; the path is the argument."""


def first_bad_layer(network: Network, batches: Sequence[Batch]) -> str | None:
    """Return the dotted path of the first layer whose output is not finite, or None."""

    def look(path: str, layer: Any, y: np.ndarray, cache: Any) -> None:
        if not np.isfinite(y).all():
            raise _Found(path)

    try:
        with np.errstate(all="ignore"), network.listening(post=look):
            for batch in batches:
                network.forward(batch.inputs, segments=batch.segments, positions=batch.positions)
    except _Found as found:
        return str(found)
    return None
