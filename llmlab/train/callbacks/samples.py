"""What the model says while it learns."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmlab.train.callbacks.metrics import MetricsFile
from llmlab.train.fit import CALLBACKS, Callback
from llmlab.train.progress import Progress
from llmlab.train.rows import rows_until
from llmlab.train.trackers import Tracker
from llmlab.train.trainer import StepResult

log = logging.getLogger("llmlab")

SAMPLED = "samples.jsonl"
_SHOWN = 200  # characters in the log


class Samples(Callback):
    """Continue the prompts every `every` steps and at the last one; rows of samples.jsonl."""

    def __init__(
        self,
        sample: Callable[[str], str],
        prompts: Sequence[str],
        folder: Path,
        metrics: MetricsFile,
        tracker: Tracker,
        every: int,
        last: int,
    ):
        self._sample, self._prompts, self._every, self._last = sample, prompts, every, last
        self._path, self._metrics, self._tracker = folder / SAMPLED, metrics, tracker
        self._file: MetricsFile | None = None

    def on_start(self, progress: Progress) -> None:
        """Open the file; rows behind the state that training goes on from are written again."""
        self._file = MetricsFile(self._path, rows_until(self._path, progress.step))
        self._metrics.sync_with(self._file.sync)

    def on_row(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Sample if it is time."""
        if progress.step % self._every and progress.step != self._last and not progress.is_stale:
            return
        assert self._file is not None
        samples = [{"prompt": prompt, "text": self._sample(prompt)} for prompt in self._prompts]
        self._file.write({"step": progress.step, "samples": samples})
        for each in samples:
            log.info("step %d: %s → %s", progress.step, *map(_short, each.values()))
        whole = "\n\n".join(f"{each['prompt']} → {each['text']}" for each in samples)
        self._tracker.text(progress.step, "samples", whole)

    def on_end(self, progress: Progress) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


@CALLBACKS.register("samples")
def samples(
    sample: Callable[[str], str],
    folder: Path,
    metrics: MetricsFile,
    tracker: Tracker,
    steps: int,
    prompts: Sequence[str] | str = (),
    every: int | None = None,
) -> Samples | None:
    """Let the model continue prompts while it learns: in the log, samples.jsonl and the tracker.

    Parameters
    ----------
    prompts
        Texts, written as the template says; none: no samples.
    every
        Steps between samples; None: a tenth of the run.
    """
    given = [prompts] if isinstance(prompts, str) else [str(each) for each in prompts]
    if not given:
        return None
    each = every or max(1, steps // 10)
    return Samples(sample, given, folder, metrics, tracker, each, steps)
