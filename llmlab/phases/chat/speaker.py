"""Who speaks in a chat: answers as they come, and what is said beside them."""

import sys
from collections.abc import Generator
from shutil import get_terminal_size
from typing import Any

from llmlab import build
from llmlab.config import Config
from llmlab.phases.answering import Answer, Answerer
from llmlab.phases.chat.conversation import Conversation, Turn
from llmlab.phases.chat.terminal import Wrapped, printable


class Speaker:
    """Who answers in a chat, in which conversation, and how."""

    def __init__(self, config: Config, model: build.Model):
        self.answerer = Answerer(config, model)
        self.sampler: dict[str, Any] = dict(config.sampler)  # as chosen so far
        # Forms with special tokens are made for many turns. RustGPT's was trained on single
        # ones, and a turn before the prompt would only be something that it never saw.
        self.conversation = Conversation(self.answerer, model.template.many_turns)
        self.over = False  # whether the user left
        self._answers = 0
        self._typed = sys.stdin.isatty()

    def say(self, text: str) -> None:
        """Print what is no answer: beside them at a terminal, else to stderr."""
        out = sys.stdout if self._typed and sys.stdout.isatty() else sys.stderr
        print(printable(text), file=out, flush=True)

    def answer(self, prompt: str) -> None:
        """Print the answer to a prompt as it comes, and remember both."""
        ids = self.conversation.encode(prompt)
        name = "llm> " if self._typed and sys.stdout.isatty() else ""
        print(name, end="", flush=True)
        pieces = self.answerer.stream_text(ids, self._answers)
        self._answers += 1
        if sys.stdout.isatty():
            said = self._show(pieces, Wrapped(get_terminal_size().columns, len(name)))
        else:
            said = _whole(pieces)
            print(said, flush=True)
        self.conversation.turns.append(Turn(prompt, said.strip()))

    def _show(self, pieces: Generator[str, None, Answer], lines: Wrapped) -> str:
        """Print words as they come and return the answer, at Ctrl-C what there is of it."""
        said = ""
        try:
            while True:
                piece = next(pieces)
                said += piece
                print(lines.add(printable(piece)), end="", flush=True)
        except StopIteration as end:
            print(lines.rest(), flush=True)
            return end.value.text
        except KeyboardInterrupt:
            if not self._typed:
                raise
            print(lines.rest(), "[stopped]", flush=True)
            return said

    def set_temperature(self, temperature: float) -> None:
        """Draw with another temperature, everything else as it was."""
        kept = self.sampler if self.sampler["type"] == "sample" else {}
        kept = kept or {key: self.sampler[key] for key in ("stop",) if key in self.sampler}
        spec = {**kept, "type": "sample", "temperature": temperature, "num_samples": 1}
        self.answerer.use(spec)
        self.sampler = spec


def _whole(pieces: Generator[str, None, Answer]) -> str:
    try:
        while True:
            next(pieces)
    except StopIteration as end:
        return end.value.text
