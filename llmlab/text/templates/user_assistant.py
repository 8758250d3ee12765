"""RustGPT's way to write a chat, in words alone."""

from collections.abc import Sequence

from llmlab.text.templates.base import TEMPLATES, Message, Template
from llmlab.text.tokenizers.base import END, Piece


@TEMPLATES.register("user_assistant")
class UserAssistant(Template):
    """RustGPT's form: `User: {prompt} Assistant: {answer}`, each answer with the end token.

    The roles are plain text, so a user can write them, too. A system message stands before all
    else, without a role.
    """

    def pieces(self, messages: Sequence[Message], reply: bool = False) -> list[Piece]:
        """Return the chat in pieces; contents lose the white space around them."""
        pieces: list[Piece] = []

        def say(text: str) -> None:
            space = " " if pieces and pieces[-1] != END else ""
            pieces.append(Piece(space + text))

        for message in messages:
            content = message.content.strip()
            if message.role == "assistant":
                say("Assistant:")
                pieces += [Piece(f" {content}", answer=True), END]
            else:
                say(f"User: {content}" if message.role == "user" else content)
        if reply:
            say("Assistant:")
        return pieces
