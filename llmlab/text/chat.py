"""Chat templates: how a prompt and its answer become one text."""

import re
from abc import ABC, abstractmethod

from llmlab.errors import ConfigError, DataError
from llmlab.registry import Registry
from llmlab.text.tokenizers.base import Tokenizer

TEMPLATES = Registry("template")

END_MARKER = "</s>"


def without_end_marker(text: str) -> str:
    """Return `text` without a final `</s>`, which some files write where a sample ends."""
    return text.rstrip().removesuffix(END_MARKER).rstrip()


class Template(ABC):
    """How a chat is written as text.

    Roles in what users type are plain text, since only the template sets them. A template with
    special tokens of its own overrides the two encoding methods and adds ids there.
    """

    @abstractmethod
    def prompt(self, text: str) -> str:
        """Return `text` as a prompt, to be continued by the answer."""

    @abstractmethod
    def render(self, prompt: str, answer: str) -> tuple[str, str]:
        """Return what precedes the answer, and the answer; joined they are the whole text."""

    @abstractmethod
    def parse(self, text: str) -> tuple[str, str]:
        """Return prompt and answer of a whole text; raise `DataError` if it has none."""

    def encode_prompt(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """Return the ids that the answer to `text` continues."""
        return tokenizer.encode(self.prompt(text))

    def encode(self, tokenizer: Tokenizer, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Return the ids before the answer, and the answer's with the end token."""
        before, after = self.render(prompt, answer)
        return tokenizer.encode(before), [*tokenizer.encode(after), tokenizer.end_id]


@TEMPLATES.register("user_assistant")
class UserAssistant(Template):
    """RustGPT's form: `User: {prompt} Assistant: {answer}`."""

    def prompt(self, text: str) -> str:
        """Return `User: {text} Assistant:`."""
        return f"User: {text.strip()} Assistant:"

    def render(self, prompt: str, answer: str) -> tuple[str, str]:
        """Return `User: {prompt} Assistant:` and the answer with a space before it."""
        return self.prompt(prompt), f" {answer.strip()}"

    def parse(self, text: str) -> tuple[str, str]:
        """Return what stands after `User:` and after the first `Assistant:`."""
        whole = without_end_marker(text.strip())
        role = re.search(r"\sAssistant:", whole)
        prompt = whole[len("User:") : role.start()].strip() if role else ""
        answer = whole[role.end() :].strip() if role else ""
        if not whole.startswith("User:") or not prompt or not answer:
            found = whole if len(whole) <= 60 else f"{whole[:57]}..."
            raise DataError(f"expected 'User: ... Assistant: ...', found {found!r}")
        return prompt, answer


@TEMPLATES.register("none")
class NoTemplate(Template):
    """Raw text: the prompt as it is typed, continued."""

    def prompt(self, text: str) -> str:
        """Return `text` itself."""
        return text

    def render(self, prompt: str, answer: str) -> tuple[str, str]:
        """Return `prompt` and `answer` themselves."""
        return prompt, answer

    def parse(self, text: str) -> tuple[str, str]:
        """Raise `ConfigError`: nothing tells a prompt from its answer."""
        raise ConfigError(
            "template 'none' has no roles to tell prompt from answer; use a template with "
            "roles, or the dataset 'lines'"
        )
