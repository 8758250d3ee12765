"""A conversation: what was said, and how much of it the model still looks at."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmlab.errors import ConfigError, DataError
from llmlab.phases.answering import Answerer, clean
from llmlab.text.reading import read_chats
from llmlab.text.templates import Message

log = logging.getLogger("llmlab")


@dataclass(frozen=True)
class Turn:
    """A prompt and its answer."""

    prompt: str
    answer: str


@dataclass
class Conversation:
    """The turns so far."""

    answerer: Answerer  # who answers
    remember: bool  # whether a prompt is answered with the turns before it in view
    system: str | None = None  # what stands before all turns, or None
    turns: list[Turn] = field(default_factory=list)  # what was said, oldest first
    dropped: int = 0  # how many of the oldest turns no longer fit into the model's context

    def reset(self) -> None:
        """Forget the turns; the system text stays."""
        self.turns, self.dropped = [], 0

    def begin(self, system: str | None) -> None:
        """Start anew after `system`; raise `ConfigError` if no prompt would fit behind it."""
        room = self.answerer.longest_prompt
        if system is not None:
            size = len(self._ids([Message("system", system)], reply=False))
            if size >= room:
                raise ConfigError(
                    f"a system text of {size} tokens: at most {room - 1} leave room for a prompt; "
                    "shorten it"
                )
        self.system = system
        self.reset()

    def messages(self, first: int = 0) -> list[Message]:
        """Return the system text and the turns from `first` on."""
        messages = [] if self.system is None else [Message("system", self.system)]
        for turn in self.turns[first:]:
            messages += [Message("user", turn.prompt), Message("assistant", turn.answer)]
        return messages

    def encode(self, prompt: str) -> list[int]:
        """Return the ids that the answer to `prompt` continues.

        As many of the last turns as fit stand before it; when one more is left out, that is
        said. Raises `ConfigError` if the prompt is empty.
        """
        prompt = clean(prompt)
        self.answerer.check(prompt)
        first = min(self.dropped, len(self.turns)) if self.remember else len(self.turns)
        while True:
            ids = self._ids([*self.messages(first), Message("user", prompt)])
            if len(ids) <= self.answerer.longest_prompt or first >= len(self.turns):
                break
            first += 1
        if self.remember and first > self.dropped:
            log.warning(
                "the conversation is longer than the model can look at: the oldest %s left out",
                "turn is" if first == 1 else f"{first} turns are",
            )
            self.dropped = first
        return self.answerer.truncated(ids)

    def size(self) -> int:
        """Return how many tokens the turns that are looked at have."""
        first = self.dropped if self.remember else len(self.turns)
        messages = self.messages(first)
        return len(self._ids(messages, reply=False)) if messages else 0

    def save(self, path: Path) -> None:
        """Write the conversation as a line of JSON, in the form that tuning reads."""
        if not self.turns:
            raise ConfigError("nothing was said yet")
        messages = [{"role": m.role, "content": m.content} for m in self.messages()]
        line = json.dumps({"messages": messages}, ensure_ascii=False)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except FileExistsError:
            raise ConfigError(f"{path}: exists already; choose another name") from None

    def load(self, path: Path) -> None:
        """Go on with the first conversation of a file; raise `DataError` if it holds none."""
        entry = next((entry for entry, _ in read_chats(path, notices=False)), "")
        if isinstance(entry, str):
            raise DataError(f'{path}: expected a line with {{"messages": [...]}}')
        system = [m.content for m in entry if m.role == "system"]
        rest = [m for m in entry if m.role != "system"]
        roles = [m.role for m in rest]
        if roles != ["user", "assistant"] * (len(rest) // 2) or len(system) > 1 or not rest:
            raise DataError(f"{path}: expected user and assistant in turns, found {roles}")
        self.begin(system[0] if system else None)
        pairs = zip(rest[::2], rest[1::2], strict=True)
        self.turns = [Turn(user.content, assistant.content) for user, assistant in pairs]

    def tokens(self, text: str) -> Iterator[str]:
        """Yield the tokens of `text`."""
        tokenizer = self.answerer.tokenizer
        return (tokenizer.token(id) for id in tokenizer.encode(clean(text)))

    def _ids(self, messages: list[Message], reply: bool = True) -> list[int]:
        answerer = self.answerer
        return answerer.template.encode_messages(answerer.tokenizer, messages, reply)[0]
