"""The contract of a chat template: how messages become one text, and its ids."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from llmlab.errors import DataError
from llmlab.registry import Registry
from llmlab.text.tokenizers.base import Fragment, Tokenizer

TEMPLATES = Registry("template")

ROLES = ("system", "user", "assistant", "tool")
USUAL = ROLES[:3]  # what every vocabulary knows; a tool is known where the files have one
END_MARKER = "</s>"


@dataclass(frozen=True)
class Message:
    """One turn of a chat; `role` is one of `ROLES`."""

    role: str
    content: str


class Template(ABC):
    """How a chat is written as text.

    Attributes
    ----------
    specials
        The special tokens that the vocabulary needs.
    vocabulary
        Text that the vocabulary needs besides that of the chats: the names of roles.
    """

    registry: ClassVar[Registry] = TEMPLATES
    specials: tuple[str, ...] = ()
    vocabulary: str = ""

    @property
    def many_turns(self) -> bool:
        """Whether a chat of many turns is what it is made for."""
        return bool(self.specials)

    @abstractmethod
    def fragments(self, messages: Sequence[Message], reply: bool = False) -> list[Fragment]:
        """Return the chat in fragments; with `reply` up to where the assistant goes on."""

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Return the ids that end an answer."""
        return list(tokenizer.stop_ids or (tokenizer.end_id,))

    def text(self, messages: Sequence[Message], reply: bool = False) -> str:
        """Return the chat as one text, special tokens by their names."""
        return "".join(fragment.text for fragment in self.fragments(messages, reply))

    def encode_messages(
        self, tokenizer: Tokenizer, messages: Sequence[Message], reply: bool = False
    ) -> tuple[list[int], list[bool]]:
        """Return the ids of a chat, and for each whether the model is to write it.

        Raises
        ------
        ConfigError
            The vocabulary lacks a special token of this template.
        """
        return tokenizer.encode_fragments(self.fragments(messages, reply))

    def encode_prompt(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """Return the ids that the answer to `text` continues."""
        return self.encode_messages(tokenizer, [Message("user", text)], reply=True)[0]

    def parse(self, text: str) -> tuple[str, str]:
        """Return prompt and answer of RustGPT's `User: ... Assistant: ...`.

        Whatever a template writes, this is what chats in files of strings look like.
        """
        whole = without_end_marker(text.strip())
        role = re.search(r"\sAssistant:", whole)
        prompt = whole[len("User:") : role.start()].strip() if role else ""
        answer = whole[role.end() :].strip() if role else ""
        if not whole.startswith("User:") or not prompt or not answer:
            found = whole if len(whole) <= 60 else f"{whole[:57]}..."
            raise DataError(f"expected 'User: ... Assistant: ...', found {found!r}")
        return prompt, answer


def without_end_marker(text: str) -> str:
    """Return `text` without a final `</s>`, which some files write where a sample ends."""
    return text.rstrip().removesuffix(END_MARKER).rstrip()
