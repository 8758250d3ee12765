"""Phase `chat`: prompts from the terminal or a pipe, answers as they are generated."""

import sys
from itertools import islice
from typing import Any

from llmlab import build
from llmlab.config import Config
from llmlab.errors import LlmlabError
from llmlab.phases.answering import checkpoint_model
from llmlab.phases.chat.commands import COMMANDS, run_command
from llmlab.phases.chat.speaker import Speaker
from llmlab.phases.chat.terminal import reader
from llmlab.phases.drafting import told
from llmlab.text.reading import read_chats

QUESTIONS = 3  # shown as a greeting
LOOKED_AT = 1_000  # chats in which they are looked for


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Answer what is typed until the input ends."""
    converse(config, checkpoint_model(config))
    return {}


def converse(config: Config, model: build.Model) -> None:
    """Read prompts and print answers; a pipe gets the answers alone."""
    speaker = Speaker(config, model)
    if sys.stdin.isatty():
        speaker.say(_greeting(known_questions(config, model)))
    lines = reader(list(COMMANDS))
    try:
        while not speaker.over:
            line = lines.read()
            if line is None:
                return
            take(speaker, line)
    finally:
        told(speaker.answerer.draft)


def take(speaker: Speaker, line: str) -> None:
    """Answer a prompt or run a command; errors are said, and the chat goes on."""
    if not line.strip():
        return
    try:
        if line.startswith("/") and not line.startswith("//"):
            message = run_command(speaker, line)
            if message is not None:
                speaker.say(message)
        else:
            speaker.answer(line.removeprefix("/") if line.startswith("//") else line)
    except LlmlabError as error:
        speaker.say(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.filename == "standard output":
            raise  # nobody gets the answers any more
        speaker.say(f"{error.filename}: {error.strerror}")


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
