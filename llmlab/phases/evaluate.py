"""Phase `evaluate`: how well a checkpoint does on a text, and what is possible there."""

import logging
from dataclasses import dataclass, replace
from math import isfinite, log
from pathlib import Path
from typing import Any

import numpy as np

from llmlab import build
from llmlab.checkpoints import Checkpoint, require
from llmlab.config import Config
from llmlab.config.stored import PATH_KEYS, stored_config
from llmlab.config.template import with_roles
from llmlab.errors import CheckpointError, DataError
from llmlab.measure import Baseline, Evaluator, Losses, baselines, entropy_floor, wilson
from llmlab.phases.answering import Answerer
from llmlab.phases.outcome import target_text
from llmlab.report.tables import figure, nats, share
from llmlab.runs.lookup import load_present
from llmlab.runs.record import read_config
from llmlab.text import Dataset, Windows

logger = logging.getLogger("llmlab")

BATCH = 64  # chats that are answered at once
# Simple methods see no more than this, the nearest: some seconds, and a few hundred megabytes.
TRAINING_TOKENS, TEXT_TOKENS = 2_000_000, 500_000


@dataclass(frozen=True)
class Measured:
    """What is measured on."""

    name: str  # what `on` says, and which part of it
    dataset: Dataset  # the text, each target once
    # The text that was trained on, where `dataset` is another; what else: why there is none.
    training: Dataset | str
    model: build.Model  # the model, with a template for chats if these are some


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Print loss, perplexity, accuracy and what to compare them with; for chats, the recall.

    Text with a part for validation is measured there; all other text as a whole.
    """
    if config.checkpoint is None:
        raise CheckpointError("no checkpoint: name one with checkpoint=FILE")
    checkpoint = load_present(config.checkpoint)
    model = build.load_model(config, checkpoint)
    measured = measured_text(config, model, checkpoint)
    model = measured.model
    dataset, lengths = measured.dataset, model.tokenizer.byte_lengths()
    losses = Evaluator(model.network(config.kernels)).measure(
        dataset.batches(config.batch_size, config.seed, 0), lengths
    )
    results = _figures(losses, dataset, model, checkpoint)
    kind = "windows" if isinstance(dataset, Windows) else "samples"
    lines = [
        f"checkpoint   {checkpoint.path}",
        f"text         {measured.name}: {len(dataset)} {kind}, {losses.tokens:,.0f} target tokens",
        f"loss         {nats(losses.loss)}{_error(losses.loss_error)} nats per token "
        f"(perplexity {figure(losses.perplexity)})",
    ]
    if losses.bits_per_byte is not None:
        lines.append(f"bits         {nats(losses.bits_per_byte)} per byte of text")
    if not isinstance(dataset, Windows):
        floor = entropy_floor(dataset.samples())
        results |= {"floor": floor, "excess": losses.loss - floor}
        lines += [
            f"floor        {nats(floor)} nats per token, the entropy that equal beginnings leave",
            f"excess       {nats(losses.loss - floor)} nats per token",
        ]
    lines.append(
        f"accuracy     {share(losses.accuracy, losses.accuracy_interval)}: tokens that were the "
        "model's first guess"
    )
    if dataset.chats:
        # An answer beyond the context is none of the data's, and guesses change none.
        plain = replace(config, context="stop", draft=None)
        right, count = recall(Answerer(plain, model), dataset)
        results |= {"recall": right, "answers": count, "chats": len(dataset.chats)}
        part = right / count if count else 0.0
        interval = share(part, wilson(part, count))
        lines.append(
            f"recall       {right} of {count} answers word for word"
            + (f" ({interval})" if count else "")
        )
    if isinstance(dataset, Windows):
        if isinstance(measured.training, Windows):
            simple, table = _compare(model, losses, dataset, measured.training)
            results["baselines"] = {row.name: row.loss for row in simple}
            lines += ["", *table]
        else:
            lines.append(f"n-grams      none: {measured.training}")
    print("\n".join(lines), flush=True)
    return results


def _figures(
    losses: Losses, dataset: Dataset, model: build.Model, checkpoint: Checkpoint
) -> dict[str, Any]:
    """Return what was measured, of which checkpoint, and on which text."""
    return {
        "loss": losses.loss,
        "loss_error": losses.loss_error if isfinite(losses.loss_error) else None,
        "perplexity": losses.perplexity,
        "accuracy": losses.accuracy,
        "bits_per_byte": losses.bits_per_byte,
        "tokens": round(losses.tokens),
        "checkpoint": str(checkpoint.path),
        "tokenizer_sha256": model.tokenizer.sha256(),
        "measured_sha256": target_text(dataset, model.tokenizer).sha256,
    }


def recall(answerer: Answerer, dataset: Dataset) -> tuple[int, int]:
    """Return how many answers are exactly those of the data, and how many there are.

    Each is asked for after the true turns before it, and has to end where it ends there.
    """
    asked: list[tuple[list[int], list[int]]] = []
    for chat in dataset.chats:
        ids, answers = answerer.template.encode_messages(answerer.tokenizer, chat)
        edges = np.flatnonzero(np.diff([False, *answers, False]))
        asked += [(ids[:a], ids[a:b]) for a, b in edges.reshape(-1, 2).tolist()]
    fitting = [pair for pair in asked if len(pair[0]) <= answerer.model.max_seq_len]
    right = 0
    for start in range(0, len(fitting), BATCH):
        part = fitting[start : start + BATCH]
        replies = answerer.replies([prompt for prompt, _ in part])
        for (_, answer), reply in zip(part, replies, strict=True):
            right += reply.reason == "stop" and reply.ids == answer[:-1]
    return right, len(asked)


def measured_text(config: Config, model: build.Model, checkpoint: Checkpoint) -> Measured:
    """Return what `on` means: a stage's text, or a file read as the checkpoint's stage reads."""
    needed = ("stage", "hashes", "config.seed", "config.data")
    require(checkpoint.meta, needed, checkpoint.path, "evaluate")
    stage = checkpoint.meta["stage"]
    stage = stage if stage in config.data else "pretrain"  # an imported model has seen neither
    on = config.on or stage
    if on not in config.data:
        spec = {**_spec(config, checkpoint, stage), "path": on, "val_fraction": 0.0}
        model = with_roles(config, model, spec)
        dataset = build.new_dataset(spec, "on", model).once()
        return Measured(on, dataset, _trained_on(config, model, checkpoint, stage), model)
    spec = _spec(config, checkpoint, on)
    model = with_roles(config, model, spec)
    whole = build.new_dataset(spec, f"data.{on}", model)
    seed = config.seed if config.is_typed("seed") else checkpoint.meta["config"]["seed"]
    training, validation = whole.split(whole.val_fraction, seed)
    if on == stage and training.sha256 != checkpoint.meta["hashes"].get("data"):
        logger.warning("data.%s: not the text that the checkpoint was trained on", on)
    if validation is None:
        return Measured(on, whole.once(), f"data.{on} keeps no part for validation", model)
    return Measured(f"{on}, the part for validation", validation, training, model)


def _trained_on(
    config: Config, model: build.Model, checkpoint: Checkpoint, stage: str
) -> Dataset | str:
    """Return the text that a checkpoint was trained on, or the reason why it isn't available."""
    hashed = checkpoint.meta["hashes"].get("data")
    if hashed is None:
        return "the checkpoint was trained elsewhere"
    if not config.is_typed(f"data.{stage}.path") and _told(checkpoint.path, stage) is None:
        return f"the text that it was trained on isn't known; name it: data.{stage}.path=FILE"
    spec = _spec(config, checkpoint, stage)
    try:
        whole = build.new_dataset(spec, f"data.{stage}", model)
    except DataError as error:
        return f"the text that it was trained on can't be read: {error}"
    seed = config.seed if config.is_typed("seed") else checkpoint.meta["config"]["seed"]
    training, _ = whole.split(whole.val_fraction, seed)
    if training.sha256 != hashed:
        return f"{spec['path']} is not the text that the checkpoint was trained on"
    return training if isinstance(training, Windows) else "it was trained on samples, not on text"


def _spec(config: Config, checkpoint: Checkpoint, stage: str) -> dict[str, Any]:
    """Return the dataset of a stage: as typed, else as the checkpoint has it."""
    composed = config.data[stage]
    stored = stored_config(checkpoint.meta)["data"].get(stage, composed)
    if {"data", "experiment"} & config.typed:
        return composed
    typed = {k: v for k, v in composed.items() if config.is_typed(f"data.{stage}.{k}")}
    told = _told(checkpoint.path, stage)
    if told is not None and told["type"] == stored["type"]:
        return told | typed
    if stored["type"] != composed["type"] and "path" not in typed and config.on is None:
        raise DataError(
            f"data.{stage}.path: a checkpoint doesn't say which file it was trained on, and this "
            f"one read it as type={stored['type']}; name it: data.{stage}.path=FILE, or repeat "
            "the experiment= or data= that it was trained with"
        )
    return {k: v for k, v in composed.items() if k in PATH_KEYS} | stored | typed


def _told(checkpoint: Path, stage: str) -> dict[str, Any] | None:
    """Return the dataset of the run that a checkpoint lies in, with its path."""
    for folder in list(checkpoint.absolute().parents)[1:3]:
        data = (read_config(folder) or {}).get("data")
        spec = data.get(stage) if isinstance(data, dict) else None
        if isinstance(spec, dict) and "type" in spec:
            return spec
    return None


def _compare(
    model: build.Model, losses: Losses, text: Windows, training: Windows
) -> tuple[list[Baseline], list[str]]:
    """Return the results of simple methods, and a table of all with the model first."""
    tokenizer = model.tokenizer
    seen = _ids(training, max(0, training.length - TRAINING_TOKENS), training.length)
    ids = _ids(text, 0, min(text.length, TEXT_TOKENS))
    lengths = tokenizer.byte_lengths()
    raw = [tokenizer.decode(part.tolist()) for part in (seen, ids)] if lengths is not None else []
    found = baselines(seen, ids, tokenizer.vocab_size, *(part.encode() for part in raw))
    units = [1.0]
    if lengths is not None:
        size = float(lengths[ids[1:]].sum())
        characters = len(tokenizer.decode(ids[1:].tolist()))
        units += [(len(ids) - 1) / log(2) / each if each else 0.0 for each in (size, characters)]
    heads = ("nats per token", "bits per byte", "bits per character")[: len(units)]
    table = [" " * 13 + "  ".join(f"{head:>18}" for head in heads)]
    for row in (Baseline("this model", losses.loss), *found):
        values = (f"{nats(row.loss * unit):>18}" for unit in units)
        table.append(f"{row.name:<13}" + "  ".join(values))
    if len(seen) < training.length or len(ids) < text.length:
        table.append(
            f"All but the model: of the last {len(seen):,} tokens for training and the first "
            f"{len(ids):,} for validation."
        )
    return found, table


def _ids(part: Windows, begin: int, end: int) -> np.ndarray:
    ids = np.empty(end - begin, dtype=np.intp)
    part.read(begin, ids)
    return ids


def _error(value: float) -> str:
    return f" ± {nats(value)}" if isfinite(value) else ""
