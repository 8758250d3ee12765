"""Phase `generate`: the answer to one prompt, alone on standard output."""

import sys
from typing import Any

from llmlab.config import Config
from llmlab.errors import ConfigError
from llmlab.phases.answering import Answerer, checkpoint_model
from llmlab.phases.chat.terminal import wrapped
from llmlab.phases.drafting import told

BETWEEN = "---"  # a line between several answers


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Print the answer to `prompt`, or several, as the sampler says."""
    if config.prompt is None:
        raise ConfigError("prompt: missing; give it as prompt='What causes rain?'")
    answerer = Answerer(config, checkpoint_model(config))
    answers = [answer.text for answer in answerer.answers(config.prompt)]
    if config.max_new_tokens != 0:
        print(f"\n{BETWEEN}\n".join(wrapped(answer, sys.stdout) for answer in answers), flush=True)
    return {"answer": answers[0], "answers": answers, **told(answerer.draft)}
