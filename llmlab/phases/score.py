"""Phase `score`: how probable a model finds a text, token by token."""

import sys
from math import exp
from typing import Any

from llmlab.config import Config
from llmlab.errors import ConfigError
from llmlab.generate import log_probabilities
from llmlab.phases.answering import checkpoint_model, clean, on_one_line, warn_of_unknown
from llmlab.phases.chat.terminal import shown
from llmlab.report.tables import figure, nats


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Print each token of `prompt` with its probability, and the perplexity of all.

    The text is taken as it stands, without a chat template. The first token isn't predicted.
    """
    if config.prompt is None or not config.prompt.strip():
        raise ConfigError("prompt: empty; give the text to score: prompt='Rain falls from clouds.'")
    model = checkpoint_model(config)
    tokenizer = model.tokenizer
    text = clean(config.prompt)
    warn_of_unknown(tokenizer, text)
    ids = [*tokenizer.encode(text), tokenizer.end_id]
    logs = log_probabilities(model.network(config.kernels), ids)
    tokens = [shown(on_one_line(tokenizer.token(id)), sys.stdout) for id in ids]
    width = max(map(len, ["token", *tokens]))
    lines = [f"{'token':<{width}}  probability     nats"]
    lines.append(f"{tokens[0]:<{width}}  {'-':>11}  {'-':>7}")
    for token, value in zip(tokens[1:], logs, strict=True):
        lines.append(f"{token:<{width}}  {_probability(value):>11}  {nats(-value):>7}")
    lines[-1] += "  the end; not counted below"
    results: dict[str, Any] = {"tokens": len(ids) - 1, "probabilities": [exp(v) for v in logs]}
    counted = logs[:-1]
    if len(counted):
        loss = float(-counted.mean())
        perplexity = exp(min(loss, 700))
        results |= {"loss": loss, "perplexity": perplexity}
        lines.append(
            f"\n{len(counted)} of {len(ids) - 1} tokens are predicted: {nats(loss)} nats per "
            f"token, perplexity {figure(perplexity)}"
        )
    print("\n".join(lines), flush=True)
    return results


def _probability(log: float) -> str:
    return f"{exp(log):.6f}" if log > -9 else figure(exp(log))
