"""Phase `generate`: the answer to one prompt, alone on standard output."""

from typing import Any

from llmlab.config import Config
from llmlab.errors import ConfigError
from llmlab.phases.answering import Answerer, checkpoint_model


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Print the answer to `prompt`."""
    if config.prompt is None:
        raise ConfigError("prompt: missing; give it as prompt='What causes rain?'")
    answer = Answerer(config, checkpoint_model(config)).reply(config.prompt)
    print(answer, flush=True)
    return {"answer": answer}
