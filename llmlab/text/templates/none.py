"""No template: text that is continued."""

from collections.abc import Sequence

from llmlab.errors import ConfigError
from llmlab.text.templates.base import TEMPLATES, Message, Template
from llmlab.text.tokenizers.base import END, Fragment


@TEMPLATES.register("none")
class NoTemplate(Template):
    """Raw text: the prompt as it is typed, continued."""

    def fragments(self, messages: Sequence[Message], reply: bool = False) -> list[Fragment]:
        """Return the contents as they are, the end token after each of the assistant's."""
        fragments: list[Fragment] = []
        for message in messages:
            answer = message.role == "assistant"
            fragments.append(Fragment(message.content, answer=answer))
            if answer:
                fragments.append(END)
        return fragments

    def parse(self, text: str) -> tuple[str, str]:
        """Raise `ConfigError`: nothing tells a prompt from its answer."""
        raise ConfigError(
            "template 'none' has no roles to tell prompt from answer; name one that has, as "
            "template=user_assistant"
        )
