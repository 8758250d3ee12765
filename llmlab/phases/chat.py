"""Phase `chat`: prompts from the terminal or a pipe, answers as they are generated."""

import sys
from collections.abc import Generator
from itertools import islice
from typing import Any

from llmlab import build
from llmlab.config import Config
from llmlab.errors import LlmlabError
from llmlab.phases.answering import Answer, Answerer, checkpoint_model
from llmlab.phases.chat_commands import COMMANDS, obey
from llmlab.phases.chat_session import Conversation, Turn
from llmlab.phases.chat_terminal import be_lenient, printable, reader
from llmlab.text.reading import read_chats

QUESTIONS = 3  # shown as a greeting
LOOKED_AT = 1_000  # chats in which they are looked for


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Answer what is typed until the input ends."""
    converse(config, checkpoint_model(config))
    return {}


def converse(config: Config, model: build.Model) -> None:
    """Read prompts and print answers; a pipe gets the answers alone."""
    be_lenient(sys.stdin, sys.stdout, sys.stderr)
    chat = Chat(config, model)
    if sys.stdin.isatty():
        chat.say(_greeting(known_questions(config, model)))
    lines = reader(list(COMMANDS))
    while not chat.over:
        line = lines.read()
        if line is None:
            return
        chat.take(line)


class Chat:
    """A conversation with its commands.

    Attributes
    ----------
    sampler
        The keys of `sampler`, as chosen so far.
    over
        Whether the user left.
    """

    def __init__(self, config: Config, model: build.Model):
        self.answerer = Answerer(config, model)
        self.sampler: dict[str, Any] = dict(config.sampler)
        # Forms with special tokens are made for many turns. RustGPT's was trained on single
        # ones, and a turn before the prompt would only be something that it never saw.
        self.conversation = Conversation(self.answerer, bool(model.template.specials))
        self.over = False
        self._answers = 0
        self._typed = sys.stdin.isatty()

    def take(self, line: str) -> None:
        """Answer a prompt or obey a command; errors are said, and the chat goes on."""
        if not line.strip():
            return
        try:
            if line.startswith("/") and not line.startswith("//"):
                message = obey(self, line)
                if message is not None:
                    self.say(message)
            else:
                self.answer(line.removeprefix("/") if line.startswith("//") else line)
        except LlmlabError as error:
            self.say(str(error))
        except BrokenPipeError:  # nobody reads the answers any more
            raise
        except OSError as error:
            self.say(f"{error.filename}: {error.strerror}")

    def say(self, text: str) -> None:
        """Print what is no answer: beside them at a terminal, else to stderr."""
        out = sys.stdout if self._typed and sys.stdout.isatty() else sys.stderr
        print(printable(text), file=out, flush=True)

    def answer(self, prompt: str) -> None:
        """Print the answer to a prompt as it comes, and remember both."""
        ids = self.conversation.encode(prompt)
        if self._typed and sys.stdout.isatty():
            print("llm> ", end="", flush=True)
        pieces = self.answerer.stream(ids, self._answers)
        self._answers += 1
        if sys.stdout.isatty():
            said = self._show(pieces)
        else:
            said = _whole(pieces)
            print(said, flush=True)
        self.conversation.turns.append(Turn(prompt, said.strip()))

    def _show(self, pieces: Generator[str, None, Answer]) -> str:
        """Print pieces as they come and return the answer, at Ctrl-C what there is of it."""
        said = ""
        try:
            while True:
                piece = next(pieces)
                said += piece
                print(printable(piece), end="", flush=True)
        except StopIteration as end:
            print(flush=True)
            return end.value.text
        except KeyboardInterrupt:
            if not self._typed:
                raise
            print(" [stopped]", flush=True)
            return said

    def set_temperature(self, temperature: float) -> None:
        """Draw with another temperature, everything else as it was."""
        kept = self.sampler if self.sampler["type"] == "sample" else {}
        kept = kept or {key: self.sampler[key] for key in ("stop",) if key in self.sampler}
        spec = {**kept, "type": "sample", "temperature": temperature, "num_samples": 1}
        self.answerer.use(spec)
        self.sampler = spec


def known_questions(config: Config, model: build.Model) -> list[str]:
    """Return questions of the tuning data that the vocabulary covers."""
    known = []
    try:
        for entry, _ in islice(read_chats(config.data["tune"]["path"], notices=False), LOOKED_AT):
            if isinstance(entry, str):
                prompt = model.template.parse(entry)[0]
            else:
                prompt = next(m.content for m in entry if m.role == "user")
            if not model.tokenizer.unknown_words(prompt):
                known.append(prompt)
    except (LlmlabError, OSError, LookupError, StopIteration):
        pass  # a greeting is no reason to refuse a chat
    questions = [prompt for prompt in known if prompt.endswith("?")]
    return (questions or known)[:QUESTIONS]


def _greeting(questions: list[str]) -> str:
    lines = ["Ask something; Ctrl-C stops an answer, Ctrl-D leaves, /help says more."]
    if questions:
        lines += ["Try, for example:", *(f"  {question}" for question in questions)]
    return "\n".join(lines)


def _whole(pieces: Generator[str, None, Answer]) -> str:
    try:
        while True:
            next(pieces)
    except StopIteration as end:
        return end.value.text
