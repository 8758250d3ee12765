"""Phase `evaluate`: how well a checkpoint does on text, beside what is possible there."""

from typing import Any

from llmlab import build
from llmlab.config import Config
from llmlab.errors import CheckpointError
from llmlab.measure import Evaluator, memorisation_floor
from llmlab.phases.answering import Answerer
from llmlab.text import Dataset
from llmlab.train.checkpoint import load

BATCH = 64  # chats that are answered at once


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Print loss, perplexity, accuracy, the data's floor, and the recall of chats."""
    if config.checkpoint is None:
        raise CheckpointError("no checkpoint: name one with checkpoint=FILE")
    checkpoint = load(config.checkpoint)
    model = build.load_model(config, checkpoint)
    where, dataset = _data(config, model, str(checkpoint.meta["stage"]))
    losses = Evaluator(model.stack, model.params, config.kernels).measure(
        dataset.batches(config.batch_size, config.seed, 0)
    )
    floor = memorisation_floor(dataset.samples())
    results: dict[str, Any] = {
        "loss": losses.loss,
        "perplexity": losses.perplexity,
        "accuracy": losses.accuracy,
        "tokens": round(losses.tokens),
        "floor": floor,
        "excess": losses.loss - floor,
    }
    lines = [
        f"checkpoint   {checkpoint.path}",
        f"text         {where}: {len(dataset)} samples, {losses.tokens:,.0f} target tokens",
        f"loss         {losses.loss:.4f} nats per token (perplexity {losses.perplexity:.4f})",
        f"floor        {floor:.4f} nats per token, what equal beginnings leave open",
        f"excess       {losses.loss - floor:.4f} nats per token",
        f"accuracy     {losses.accuracy:.2%} of the tokens are the first guess",
    ]
    if dataset.pairs:
        right = recall(Answerer(config, model), dataset)
        results |= {"recall": right, "chats": len(dataset.pairs)}
        lines.append(f"recall       {right} of {len(dataset.pairs)} answers word for word")
    print("\n".join(lines), flush=True)
    return results


def recall(answerer: Answerer, dataset: Dataset) -> int:
    """Return how many chats are answered exactly as in the data, up to the end token."""
    right = 0
    for start in range(0, len(dataset.pairs), BATCH):
        coded = [
            answerer.template.encode(answerer.tokenizer, *pair)
            for pair in dataset.pairs[start : start + BATCH]
        ]
        fitting = [(p, a) for p, a in coded if len(p) <= answerer.model.max_seq_len]
        replies = answerer.replies([prompt for prompt, _ in fitting])
        for (_, answer), reply in zip(fitting, replies, strict=True):
            right += reply.reason == "stop" and reply.ids == answer[:-1]
    return right


def _data(config: Config, model: build.Model, stage: str) -> tuple[str, Dataset]:
    """Return name and dataset of `on`: a stage's, or the checkpoint's stage's on another file."""
    on = config.on or stage
    if on in config.data:
        return on, build.new_dataset(config.data[on], f"data.{on}", model)
    spec = {**config.data[stage], "path": on}
    return on, build.new_dataset(spec, "on", model)
