"""llmlab's chat templates in Jinja, for `tokenizer.apply_chat_template`."""

from typing import Any

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
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + (m.content | trim) "
    "+ '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_KNOWN = {"user_assistant": _USER_ASSISTANT, "chatml": _CHATML, "llama": _LLAMA}


def chat_template(spec: Any) -> str | None:
    """Return the Jinja form of a template's spec; None if it has none."""
    name = spec if isinstance(spec, str) else spec.get("type")
    return _KNOWN.get(name)
