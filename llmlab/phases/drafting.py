"""Who guesses tokens ahead (`draft`), and what came of it."""

import logging
from typing import Any

from llmlab import build
from llmlab.config import Config
from llmlab.errors import ConfigError
from llmlab.generate import Draft, NetworkDraft, NgramDraft
from llmlab.runs.lookup import load_present

log = logging.getLogger("llmlab")

NGRAM = "ngram"


def new_draft(config: Config, model: build.Model) -> Draft | None:
    """Return what guesses the tokens of `model`, None for nothing."""
    if not config.draft:
        return None
    if config.draft == NGRAM:
        return NgramDraft(config.draft_tokens)
    other = build.load_model(config, load_present(config.draft))
    own, theirs = model.tokenizer, other.tokenizer
    if own.to_dict() != theirs.to_dict():
        sizes = f"{theirs.type} with {theirs.vocab_size} tokens, {own.type} with {own.vocab_size}"
        raise ConfigError(
            f"draft={config.draft}: has another vocabulary than the checkpoint ({sizes}); name a "
            "model that was trained with the same tokenizer, or draft=ngram"
        )
    return NetworkDraft(other.network(config.kernels), config.draft_tokens)


def told(draft: Draft | None) -> dict[str, Any]:
    """Say what came of a draft, and return the figures."""
    if draft is None or not draft.tally.passes:
        return {}
    tally = draft.tally
    each = tally.tokens / tally.passes
    if tally.drafted:
        part = f"{tally.accepted / tally.drafted:.0%}"
        right = f"{tally.accepted} of {tally.drafted} guessed tokens were right ({part})"
        log.info("draft: %s, %.2f tokens a pass", right, each)
    else:
        log.info("draft: no earlier text to guess from, %.2f tokens a pass", each)
    return {
        "drafted": tally.drafted,
        "accepted": tally.accepted,
        "tokens_per_pass": each,
    }
