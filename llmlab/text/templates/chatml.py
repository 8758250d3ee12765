"""ChatML, the form of Qwen and many others."""

from collections.abc import Sequence

from llmlab.text.templates.base import TEMPLATES, USUAL, Message, Template
from llmlab.text.tokenizers.base import Fragment, Tokenizer

_START, _STOP = "<|im_start|>", "<|im_end|>"


@TEMPLATES.register("chatml")
class ChatML(Template):
    r"""ChatML: `<|im_start|>{role}\n{content}<|im_end|>\n` for each message.

    The marks are special tokens; typed by a user, the same characters are plain text.
    """

    specials = (_START, _STOP)
    vocabulary = "".join(f"{role}\n" for role in USUAL)

    def fragments(self, messages: Sequence[Message], reply: bool = False) -> list[Fragment]:
        """Return the chat in fragments."""
        start = Fragment(_START, special=True)
        fragments: list[Fragment] = []
        for message in messages:
            answer = message.role == "assistant"
            fragments += [
                start,
                Fragment(f"{message.role}\n"),
                Fragment(message.content, answer=answer),
                Fragment(_STOP, special=True, answer=answer),
                Fragment("\n"),
            ]
        if reply:
            fragments += [start, Fragment("assistant\n")]
        return fragments

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Return the ids of `<|im_end|>` and of the end token."""
        return [tokenizer.special_id(_STOP), *super().stop_ids(tokenizer)]
