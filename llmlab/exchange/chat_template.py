"""Chat templates in Jinja: a folder's own, and llmlab's for `tokenizer.apply_chat_template`."""

import logging
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.exchange.files import opened
from llmlab.text import TEMPLATES

log = logging.getLogger("llmlab")

FILE = "chat_template.jinja"
#: The names that templates know special tokens by.
TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
TOKENS += ("mask_token",)
_MOST = 2**20  # bytes; the longest in use has a tenth of it

_USER_ASSISTANT = (
    "{% for m in messages %}"
    "{% if not loop.first and loop.previtem.role != 'assistant' %}{{ ' ' }}{% endif %}"
    "{% if m.role == 'assistant' %}{{ 'Assistant: ' + (m.content | trim) + eos_token }}"
    "{% elif m.role == 'user' %}{{ 'User: ' + (m.content | trim) }}"
    "{% else %}{{ m.content | trim }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{% if messages and messages[-1].role != 'assistant' %}{{ ' ' }}{% endif %}"
    "{{ 'Assistant:' }}{% endif %}"
)
_CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LLAMA = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + ('ipython' if m.role == 'tool' else m.role) "
    "+ '<|end_header_id|>\n\n' + (m.content | trim) "
    "+ '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_KNOWN = {"user_assistant": _USER_ASSISTANT, "chatml": _CHATML, "llama": _LLAMA}


def chat_template(spec: Any) -> str | None:
    """Return the Jinja form of a template's spec; None if it has none."""
    name = spec if isinstance(spec, str) else spec.get("type")
    return spec["source"] if name == "jinja" else _KNOWN.get(name)  # pyright: ignore[reportArgumentType]


def template_tokens(spec: Any) -> dict[str, str]:
    """Return the special tokens that a template knows by names."""
    return {} if isinstance(spec, str) else dict(spec.get("tokens") or {})


def read_template(folder: Path, settings: Mapping[str, Any]) -> Any:
    """Return the spec of a folder's chat template; None if there is none.

    `settings` are the folder's tokenizer_config.json.
    """
    where, source = folder / FILE, settings.get("chat_template")
    if where.exists():
        with opened(where) as (file, size):
            if size > _MOST:
                raise CheckpointError(f"{where}: {size:,} bytes, at most {_MOST:,} are read")
            source = file.read(size).decode("utf-8", "replace")
    else:
        where = folder / "tokenizer_config.json: chat_template"
    if isinstance(source, list):  # several, by names
        named = {
            each.get("name"): each.get("template") for each in source if isinstance(each, dict)
        }
        if len(named) > 1:
            log.warning("%s: of several, 'default' is taken and kept", where)
        source = named.get("default")
    if source is None:
        return None
    if not isinstance(source, str) or len(source) > _MOST:
        raise CheckpointError(f"{where}: expected a text of at most {_MOST:,} characters")
    for name, own in _KNOWN.items():
        if source == own:
            return name
    spec: dict[str, Any] = {"type": "jinja", "source": source, "tokens": named_tokens(settings)}
    if "strftime_now" in source:
        spec["date"] = date.today().isoformat()
    try:
        TEMPLATES.build(spec, "template").check()
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    return spec


def named_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens that settings name, as text."""
    found = {}
    for name in TOKENS:
        said = settings.get(name)
        said = said.get("content") if isinstance(said, dict) else said
        if isinstance(said, str) and said:
            found[name] = said
    return found
