"""What to keep of a step that was not finite."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.atomic_write import replace_file, replace_text
from llmlab.batch import Batch
from llmlab.layers import Layer, Stack
from llmlab.params import Arena
from llmlab.train.fit import Callback, Progress
from llmlab.train.trainer import StepResult, Trainer
from llmlab.workspace import Context

log = logging.getLogger("llmlab")


class Diagnosis(Callback):
    """Tell of skipped steps; at the one that ends the run, save which layer and which batch."""

    def __init__(self, trainer: Trainer, folder: Path, max_bad_steps: int):
        self._trainer, self._folder, self._limit = trainer, folder, max_bad_steps

    def on_step(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Look at the step if it was skipped."""
        if not result.skipped:
            return
        if progress.bad == 1:
            log.warning(
                "step %d skipped: loss %s, gradient norm %s; nothing reached the parameters",
                progress.step,
                result.loss,
                result.grad_norm,
            )
        if progress.bad == self._limit:
            self._save(progress, result)

    def _layer(self) -> str | None:
        """Return the first bad layer; a whole batch at once can be more than memory takes."""
        trainer = self._trainer
        try:
            return first_bad_layer(trainer.stack, trainer.params, trainer.batches, trainer.kernels)
        except MemoryError:
            return "unknown, no memory to look for it"

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
            f"{name}.{index}": getattr(batch, name)
            for index, batch in enumerate(trainer.batches)
            for name in ("inputs", "targets", "weights", "segments", "positions")
            if getattr(batch, name) is not None
        }
        replace_file(path.with_suffix(".npz"), lambda file: np.savez(file, **arrays))
        log.error(
            "first layer whose output is not finite: %s; details in %s, the batch beside it",
            found["layer"] or "none, the backward pass",
            path,
        )


def first_bad_layer(
    stack: Layer, params: Arena, batches: Sequence[Batch], kernels: Any
) -> str | None:
    """Return the dotted name of the first layer whose output is not finite, or None."""
    with np.errstate(all="ignore"):
        for batch in batches:
            ctx = Context(kernels, params.flat.dtype)
            ctx.begin(*batch.inputs.shape, segments=batch.segments, positions=batch.positions)
            x = np.ascontiguousarray(batch.inputs).reshape(-1)
            for name, layer, p in _steps(stack, params.tree, ""):
                x, _ = layer.forward(p, x, ctx)
                if not np.isfinite(x).all():
                    return name
    return None


def _steps(layer: Layer, p: dict[str, Any], name: str) -> Iterator[tuple[str, Layer, Any]]:
    """Yield the layers in the order in which they are applied, stacks opened."""
    if not isinstance(layer, Stack):
        yield name, layer, p
        return
    for key, child in layer.children().items():
        yield from _steps(child, p[key], f"{name}.{key}" if name else key)
