"""What a training reports at its end: its numbers, and what makes them comparable."""

import hashlib
import json
from math import isfinite, log
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmlab import build
from llmlab.config import Config
from llmlab.report.loss import Report
from llmlab.text import Dataset, Tokenizer
from llmlab.train.progress import Progress

_IN_LOSS = ("dropout", "balance")  # arguments of layers that change what the training loss is


class Text(NamedTuple):
    """The text of a dataset's targets."""

    sha256: str  # of the text itself, so that it doesn't hang on the tokenizer
    # Weight of the targets, and of the bytes that they stand for; None where a token has no bytes
    # of its own.
    tokens: float
    size: float | None


def training_results(
    config: Config,
    model: build.Model,
    training: str,  # the hash of what was trained on
    validation: Dataset | None,
    progress: Progress,
    report: Report,
    checkpoint: Path,  # what the stage hands on
) -> dict[str, Any]:
    """Return a stage's results."""
    results: dict[str, Any] = {
        # A run that began before its loss was counted has it from its metrics.
        "loss": report.loss if progress.loss is None else progress.loss,
        "steps": progress.step,
        "tokens": progress.tokens,
        "flops": progress.step * flops_of_step(config, model),
        "parameters": model.layout.num_parameters,
        "skipped": progress.skipped,
        "checkpoint": str(checkpoint),
        "tokenizer_sha256": model.tokenizer.sha256(),
        "objective_sha256": _objective(config, model, training),
    }
    last = [row["val_loss"] for row in report.rows if "val_loss" in row][-1:]
    if validation is not None and last:
        text = target_text(validation, model.tokenizer)
        results |= {"val_loss": last[0], "validation_sha256": text.sha256}
        if progress.best is not None:
            results |= {"best_val_loss": progress.best, "best_step": progress.best_step}
        if text.size and last[0] is not None and isfinite(last[0]):
            results["bits_per_byte"] = last[0] * text.tokens / log(2) / text.size
    return results


def flops_of_step(config: Config, model: build.Model) -> int:
    """Return what an update of full batches takes, counted as `phase=summary` does."""
    return 3 * config.accumulate * model.stack.flops(config.batch_size, model.max_seq_len)


def target_text(dataset: Dataset, tokenizer: Tokenizer) -> Text:
    """Return what the targets of a dataset say, each once."""
    ids: list[int] = []
    weights: list[float] = []
    for sample, own in dataset.samples():
        for id, weight in zip(sample[1:], own, strict=True):
            if weight:
                ids.append(id)
                weights.append(weight)
    digest = hashlib.sha256(tokenizer.decode(ids).encode()).hexdigest()
    lengths = tokenizer.byte_lengths()
    size = None if lengths is None else float(lengths[np.array(ids, np.intp)] @ np.array(weights))
    return Text(digest, sum(weights), size)


def _objective(config: Config, model: build.Model, training: str) -> str:
    """Return a hash of all that decides what a training loss is the loss of."""
    spec = build.flat(model.spec)
    inside = {key: value for key, value in spec.items() if key.rpartition(".")[2] in _IN_LOSS}
    whole = [training, model.tokenizer.sha256(), config.label_smoothing, sorted(inside.items())]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()
