"""The template of a model is what it was trained with."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from llmlab.config.config import Config
from llmlab.text import DATASETS, TEMPLATES, Tokenizer

AUTO = "auto"  # what the model was trained with
RAW = "none"  # that of a model that saw no roles
PLAIN = "user_assistant"  # needs no special tokens
M = TypeVar("M", bound=Any)
_BY_TOKENS = ("chatml", "llama")  # templates that a vocabulary's special tokens give away


def by_tokens(tokenizer: Tokenizer) -> str | None:
    """Return the template whose special tokens a vocabulary has."""
    known = {name: TEMPLATES.build(name, "template").specials for name in _BY_TOKENS}
    return next((n for n, tokens in known.items() if {*tokens} <= {*tokenizer.special_ids}), None)


def for_words(config: Config) -> Any:
    """Return the template whose words and special tokens a new vocabulary has."""
    return PLAIN if config.template == AUTO else config.template


def typed_template(config: Config) -> Any:
    """Return the template that was named on the command line; None for none."""
    return config.template if config.is_typed("template") and config.template != AUTO else None


def template_of(config: Config, tokenizer: Tokenizer) -> Any:
    """Return the template of a new model: as the configuration says, or as its data need."""
    data = config.data.get(config.phase)
    return _for_data(data, tokenizer) if config.template == AUTO else config.template


def with_roles(config: Config, model: M, data: Mapping[str, Any]) -> M:
    """Return the model (a `build.Model`) with a template for `data`: for chats, one with roles.

    What was typed stays as it is, and so does a template that has roles.
    """
    if typed_template(config) or model.template_spec not in (RAW, {"type": RAW}):
        return model
    return replace(model, template_spec=_for_data(data, model.tokenizer))


def _for_data(data: Mapping[str, Any] | None, tokenizer: Tokenizer) -> str:
    if data is None or "template" not in DATASETS.signature(data["type"]):
        return RAW
    return by_tokens(tokenizer) or PLAIN
