"""No template: text that is continued."""

from collections.abc import Sequence

from llmlab.errors import ConfigError
from llmlab.text.templates.base import TEMPLATES, Message, Template
from llmlab.text.tokenizers.base import END, Piece


@TEMPLATES.register("none")
class NoTemplate(Template):
    """Raw text: the prompt as it is typed, continued."""

    def pieces(self, messages: Sequence[Message], reply: bool = False) -> list[Piece]:
        """Return the contents as they are, the end token after each of the assistant's."""
        pieces: list[Piece] = []
        for message in messages:
            answer = message.role == "assistant"
            pieces.append(Piece(message.content, answer=answer))
            if answer:
                pieces.append(END)
        return pieces

    def parse(self, text: str) -> tuple[str, str]:
        """Raise `ConfigError`: nothing tells a prompt from its answer."""
        raise ConfigError(
            "template 'none' has no roles to tell prompt from answer; use a template with "
            "roles, or the dataset 'lines'"
        )
