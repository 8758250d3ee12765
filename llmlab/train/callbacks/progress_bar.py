"""The progress of a training, for whoever watches it."""

import logging
import time
from math import exp
from typing import Any

from tqdm import tqdm

from llmlab.train.fit import CALLBACKS, Callback
from llmlab.train.progress import Progress
from llmlab.train.trainer import StepResult

log = logging.getLogger("llmlab")
LOG_SECONDS = 30.0  # between lines where no progress bar can be drawn

# Loss, perplexity and speed are to fit into 80 columns; the bar takes what they leave.
BAR = "{desc} {percentage:3.0f}%|{bar}|{n_fmt}/{total_fmt} <{remaining}{postfix}"


@CALLBACKS.register("progress_bar")
class ProgressBar(Callback):
    """Show loss, perplexity and speed; a line every half minute where no bar can be drawn."""

    def __init__(self, stage: str, steps: int, show_progress: bool = True):
        self._stage, self._steps, self._bar = stage, steps, show_progress
        self._smooth: float | None = None
        self._validation: float | None = None
        self._tokens = 0
        self._tqdm: Any = None
        self._shown = self._began = time.monotonic()

    def on_start(self, progress: Progress) -> None:
        """Draw the bar."""
        tqdm.monitor_interval = 0  # its thread would only watch, and threads make forks unsafe
        disable = None if self._bar else True
        self._tqdm = tqdm(
            total=self._steps,
            initial=progress.step,
            desc=self._stage,
            disable=disable,
            dynamic_ncols=True,
            bar_format=BAR,
            mininterval=0.2,
        )
        self._shown = self._began = time.monotonic()

    def on_step(self, progress: Progress, result: StepResult, row: dict[str, Any]) -> None:
        """Update the bar."""
        self._tokens += round(result.tokens)
        self._validation = row.get("val_loss", self._validation)
        if not result.skipped:
            old = result.loss if self._smooth is None else self._smooth
            self._smooth = old + 0.05 * (result.loss - old)
        now = time.monotonic()
        if not self._tqdm.disable:
            if now - self._shown > 0.2:
                self._tqdm.set_postfix_str(self._text(progress, now), refresh=False)
                self._shown = now
            self._tqdm.update()
        elif now - self._shown > LOG_SECONDS:
            log.info("%s step %d/%d %s", *self._place(progress), self._text(progress, now))
            self._shown = now

    def on_end(self, progress: Progress) -> None:
        """Leave the last numbers on the screen."""
        if self._tqdm is None:
            return
        now = time.monotonic()
        if not self._tqdm.disable:
            self._tqdm.set_postfix_str(self._text(progress, now))
        self._tqdm.close()

    def _place(self, progress: Progress) -> tuple[str, int, int]:
        return self._stage, progress.step, self._steps

    def _text(self, progress: Progress, now: float) -> str:
        loss = self._smooth
        speed = self._tokens / max(now - self._began, 1e-9)
        text = f"{speed:,.0f} tokens/s"
        if loss is not None:
            perplexity = exp(min(loss, 700))
            shown = f"{perplexity:,.1f}" if perplexity < 1e6 else f"{perplexity:.2e}"
            text = f"loss {loss:.3f}, perplexity {shown}, {text}"
        if self._validation is not None:
            text += f", validation {self._validation:.4f}"
        return text + (f", {progress.skipped} skipped" if progress.skipped else "")
