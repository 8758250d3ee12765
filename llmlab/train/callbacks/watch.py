"""What goes on inside a network while it learns, as rows of watch.jsonl."""

import logging
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.batch import Batch
from llmlab.network import Network
from llmlab.train.array_statistics import array_statistics, columns
from llmlab.train.callbacks.diagnosis import first_bad_layer
from llmlab.train.callbacks.metrics import MetricsFile
from llmlab.train.findings import facts_of, find
from llmlab.train.fit import CALLBACKS, Callback
from llmlab.train.heat_map import grid_of, picture
from llmlab.train.probe import Probe, flat, probe_of
from llmlab.train.progress import Progress
from llmlab.train.rows import read_rows, rows_until
from llmlab.train.trackers import NoTracker, Tracker
from llmlab.train.trainer import StepResult, Trainer

log = logging.getLogger("llmlab")

WATCHED = "watch.jsonl"


class Watch(Callback):
    """Write a row at the first step, every `every` steps, and where steps begin to be skipped.

    Gradients are those of all workers, before clipping. Activations are those of a probe, which is
    the same for the whole run: the first tokens of its first epoch, at most 128, without dropout,
    in this process. They are those after the step's update, but of the first step those before it.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        stage: str,
        metrics: MetricsFile,
        tracker: Tracker,
        batches: Callable[[], Iterable[Batch]],
        every: int,
        arrays: Sequence[str] = ("*",),
    ):
        self._trainer, self._every, self._stage = trainer, every, stage
        self._path, self._metrics, self._tracker = folder / WATCHED, metrics, tracker
        self._patterns = list(arrays)
        self._before = np.empty_like(trainer.params.flat)
        network = Network(trainer.stack, trainer.params, kernels=trainer.kernels)
        self._network, self._probe = network, Probe(network)
        self._batches = batches
        self._tokens: Batch | None = None
        self._started = 0  # the step that this process goes on from
        self._first: dict[str, Any] | None = None
        self._file: MetricsFile | None = None

    def on_start(self, progress: Progress) -> None:
        """Open the file; rows behind the state that training goes on from are written again."""
        self._file = MetricsFile(self._path, rows_until(self._path, progress.step))
        self._metrics.sync_with(self._file.sync)
        self._started = progress.step
        self._tokens = probe_of(self._batches())
        self._first = self._look() if progress.step == 0 else None
        self._keep(progress)

    def on_row(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Write a row if it is time."""
        if self._is_due(progress.step) or progress.bad == 1:
            self._write(progress, result)
        self._keep(progress)

    def on_end(self, progress: Progress) -> None:
        """Say what is out of the ordinary, and give the tracker the picture of the updates."""
        if self._file is None:
            return
        self._file.close()
        rows = read_rows(self._path)
        metrics = read_rows(self._metrics.path)
        for finding in find(rows, facts_of(self._trainer.stack, self._trainer.clip_norm), metrics):
            log.warning("watch: %s", finding.sentence)
        names, _, values = grid_of(rows, "ratio")
        if names and progress.step > self._started:
            self._tracker.picture(progress.step, "watch/update_ratio", picture(values))

    def _is_due(self, step: int) -> bool:
        return step == 1 or step % self._every == 0

    def _keep(self, progress: Progress) -> None:
        """Keep the parameters if the next step is to be compared with them."""
        if self._is_due(progress.step + 1):
            np.copyto(self._before, self._trainer.params.flat)

    def _look(self) -> dict[str, Any]:
        return {} if self._tokens is None else self._probe.look(self._tokens)

    def _write(self, progress: Progress, result: StepResult) -> None:
        assert self._file is not None
        trainer = self._trainer
        if not self._is_due(progress.step):  # a skipped one, which has changed nothing
            np.copyto(self._before, trainer.params.flat)
        arrays = array_statistics(trainer.params, trainer.grads, self._before)
        found, self._first = self._first or self._look(), None
        skipped = result.skipped
        row = {
            "stage": self._stage,
            "step": progress.step,
            "loss": None if skipped else result.loss,
            "lr": result.lr,
            "grad_norm": None if skipped else result.grad_norm,
            "clipped": progress.clipped,
            "skipped": progress.skipped,
            "bad_layer": first_bad_layer(self._network, trainer.batches) if skipped else None,
            "arrays": arrays,
            **found,
        }
        self._file.write(row)
        if isinstance(self._tracker, NoTracker):
            return
        names = [n for n in arrays if any(fnmatchcase(n, each) for each in self._patterns)]
        shown = {name: arrays[name] for name in names}
        values = {f"watch/{key}": value for key, value in (columns(shown) | flat(found)).items()}
        self._tracker.log(progress.step, values)


@CALLBACKS.register("watch")
def watch(
    trainer: Trainer,
    folder: Path,
    stage: str,
    metrics: MetricsFile,
    tracker: Tracker,
    batches: Callable[[], Iterable[Batch]],
    every: int | None = None,
    arrays: Sequence[str] = ("*",),
) -> Watch | None:
    """Write statistics of weights, gradients, updates and activations to watch.jsonl.

    Parameters
    ----------
    every
        Steps between rows; None: don't watch.
    arrays
        Patterns of the names of those arrays that the tracker gets, too.
    """
    if every is None:
        return None
    return Watch(trainer, folder, stage, metrics, tracker, batches, every, arrays)
