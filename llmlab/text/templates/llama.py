"""The form of Llama 3."""

from collections.abc import Sequence

from llmlab.text.templates.base import TEMPLATES, USUAL, Message, Template
from llmlab.text.tokenizers.base import Fragment, Tokenizer

_BEGIN, _STOP = "<|begin_of_text|>", "<|eot_id|>"
_OPEN, _CLOSE = "<|start_header_id|>", "<|end_header_id|>"


@TEMPLATES.register("llama")
class Llama(Template):
    r"""Llama 3: `<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>` a message.

    `<|begin_of_text|>` stands before all. The marks are special tokens; typed by a user, the
    same characters are plain text.
    """

    specials = (_BEGIN, _OPEN, _CLOSE, _STOP)
    vocabulary = "".join(f"{role}\n\n" for role in USUAL)

    def fragments(self, messages: Sequence[Message], reply: bool = False) -> list[Fragment]:
        """Return the chat in fragments; contents lose the white space around them."""
        fragments = [Fragment(_BEGIN, special=True)]
        for message in messages:
            answer = message.role == "assistant"
            fragments += [
                *_header(message.role),
                Fragment(message.content.strip(), answer=answer),
                Fragment(_STOP, special=True, answer=answer),
            ]
        return [*fragments, *(_header("assistant") if reply else ())]

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Return the ids of `<|eot_id|>` and of the end token."""
        return [tokenizer.special_id(_STOP), *super().stop_ids(tokenizer)]


def _header(role: str) -> list[Fragment]:
    return [
        Fragment(_OPEN, special=True),
        Fragment("ipython" if role == "tool" else role),
        Fragment(_CLOSE, special=True),
        Fragment("\n\n"),
    ]
