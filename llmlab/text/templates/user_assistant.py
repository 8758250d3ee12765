"""RustGPT's way to write a chat, in words alone."""

from collections.abc import Sequence

from llmlab.text.templates.base import TEMPLATES, Message, Template
from llmlab.text.tokenizers.base import END, Fragment


@TEMPLATES.register("user_assistant")
class UserAssistant(Template):
    """RustGPT's form: `User: {prompt} Assistant: {answer}`, each answer with the end token.

    The roles are plain text, so a user can write them, too. A system message stands before all
    else, without a role.
    """

    def fragments(self, messages: Sequence[Message], reply: bool = False) -> list[Fragment]:
        """Return the chat in fragments; contents lose the white space around them."""
        fragments: list[Fragment] = []

        def say(text: str) -> None:
            space = " " if fragments and fragments[-1] != END else ""
            fragments.append(Fragment(space + text))

        for message in messages:
            content = message.content.strip()
            if message.role == "assistant":
                say("Assistant:")
                fragments += [Fragment(f" {content}", answer=True), END]
            else:
                say(f"User: {content}" if message.role == "user" else content)
        if reply:
            say("Assistant:")
        return fragments
