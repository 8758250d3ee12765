"""The form of Llama 3."""

from collections.abc import Sequence

from llmlab.text.templates.base import ROLES, TEMPLATES, Message, Template
from llmlab.text.tokenizers.base import Piece, Tokenizer

_BEGIN, _STOP = "<|begin_of_text|>", "<|eot_id|>"
_OPEN, _CLOSE = "<|start_header_id|>", "<|end_header_id|>"


@TEMPLATES.register("llama")
class Llama(Template):
    r"""Llama 3: `<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>` a message.

    `<|begin_of_text|>` stands before all. The marks are special tokens; typed by a user, the
    same characters are plain text.
    """

    specials = (_BEGIN, _OPEN, _CLOSE, _STOP)
    vocabulary = "".join(f"{role}\n\n" for role in ROLES)

    def pieces(self, messages: Sequence[Message], reply: bool = False) -> list[Piece]:
        """Return the chat in pieces; contents lose the white space around them."""
        pieces = [Piece(_BEGIN, special=True)]
        for message in messages:
            answer = message.role == "assistant"
            pieces += [
                *_header(message.role),
                Piece(message.content.strip(), answer=answer),
                Piece(_STOP, special=True, answer=answer),
            ]
        return [*pieces, *(_header("assistant") if reply else ())]

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Return the ids of `<|eot_id|>` and of the end token."""
        return [tokenizer.special_id(_STOP), *super().stop_ids(tokenizer)]


def _header(role: str) -> list[Piece]:
    return [
        Piece(_OPEN, special=True),
        Piece(role),
        Piece(_CLOSE, special=True),
        Piece("\n\n"),
    ]
