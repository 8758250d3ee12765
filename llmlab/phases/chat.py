"""Phase `chat`: prompts from the terminal or a pipe, answers as they are generated."""

import sys
from typing import Any

from llmlab import build
from llmlab.config import Config
from llmlab.errors import ConfigError, LlmlabError, Stopped
from llmlab.phases.answering import Answerer, checkpoint_model

QUESTIONS = 3  # shown as a greeting


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Answer what is typed until the input ends."""
    converse(config, checkpoint_model(config))
    return {}


def converse(config: Config, model: build.Model) -> None:
    """Read prompts and print answers; a pipe gets the answers alone."""
    answerer = Answerer(config, model)
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        _greet(known_questions(config, model))
    while True:
        text = _read(at_terminal)
        if text is None:
            return
        if not text.strip():
            continue
        _answer(answerer, text, at_terminal)


def known_questions(config: Config, model: build.Model) -> list[str]:
    """Return questions of the tuning data that the vocabulary covers."""
    try:
        pairs = build.new_dataset(config.data["tune"], "data.tune", model).pairs
    except LlmlabError:  # a greeting is no reason to refuse a chat
        return []
    known = [p for p, _ in pairs if not model.tokenizer.unknown_words(model.template.prompt(p))]
    questions = [prompt for prompt in known if prompt.endswith("?")]
    return (questions or known)[:QUESTIONS]


def _greet(questions: list[str]) -> None:
    print("Ask something; Ctrl-C stops an answer, Ctrl-D leaves.")
    if questions:
        print("It was tuned on, for example:")
        for question in questions:
            print(f"  {question}")


def _read(at_terminal: bool) -> str | None:
    """Return the next line, or None at the end of the input."""
    try:
        if at_terminal:
            return input("\nyou> ")
        line = sys.stdin.readline()
        return line if line else None
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        raise Stopped("left the chat", 130) from None


def _answer(answerer: Answerer, text: str, at_terminal: bool) -> None:
    try:
        if at_terminal:
            print("llm> ", end="", flush=True)
        for piece in answerer.stream(text):
            print(piece, end="", flush=True)
        print(flush=True)
    except KeyboardInterrupt:
        if not at_terminal:
            raise
        print(" [stopped]")
    except ConfigError as error:
        print(error)
