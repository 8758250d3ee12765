"""ChatML, the form of Qwen and many others."""

from collections.abc import Sequence

from llmlab.text.templates.base import ROLES, TEMPLATES, Message, Template
from llmlab.text.tokenizers.base import Piece, Tokenizer

_START, _STOP = "<|im_start|>", "<|im_end|>"


@TEMPLATES.register("chatml")
class ChatML(Template):
    r"""ChatML: `<|im_start|>{role}\n{content}<|im_end|>\n` for each message.

    The marks are special tokens; typed by a user, the same characters are plain text.
    """

    specials = (_START, _STOP)
    vocabulary = "".join(f"{role}\n" for role in ROLES)

    def pieces(self, messages: Sequence[Message], reply: bool = False) -> list[Piece]:
        """Return the chat in pieces."""
        start = Piece(_START, special=True)
        pieces: list[Piece] = []
        for message in messages:
            answer = message.role == "assistant"
            pieces += [
                start,
                Piece(f"{message.role}\n"),
                Piece(message.content, answer=answer),
                Piece(_STOP, special=True, answer=answer),
                Piece("\n"),
            ]
        if reply:
            pieces += [start, Piece("assistant\n")]
        return pieces

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Return the ids of `<|im_end|>` and of the end token."""
        return [tokenizer.special_id(_STOP), *super().stop_ids(tokenizer)]
