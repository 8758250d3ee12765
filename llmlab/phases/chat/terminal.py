"""Terminals and pipes: reading lines, and showing text that nobody has checked."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

from llmlab.errors import Stopped

PROMPT = "you> "
_HARMLESS = {
    # Control characters become pictures of themselves, so that they are seen and do nothing.
    **{code: 0x2400 + code for code in range(0x20)},
    0x7F: 0x2421,
    **{code: 0xFFFD for code in range(0x80, 0xA0)},
    # These would turn around what stands beside them.
    **{code: 0xFFFD for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F))},
    **{code: 0xFFFD for code in range(0x2066, 0x206A)},
    **{code: 0xFFFD for code in range(0xD800, 0xE000)},
    ord("\n"): "\n",
    ord("\t"): "\t",
}


def printable(text: str) -> str:
    """Return `text` without anything that a terminal would obey instead of show."""
    return text.translate(_HARMLESS)


def shown(text: str, out: TextIO) -> str:
    """Return what may be written to `out`: a terminal gets no control characters."""
    return printable(text) if out.isatty() else text


def be_lenient(*streams: TextIO) -> None:
    """Let streams replace what their encoding doesn't have, instead of failing."""
    for one in streams:
        # Streams that a test or a notebook puts in their place have no encoding.
        with contextlib.suppress(AttributeError, ValueError):
            one.reconfigure(errors="replace")  # type: ignore[union-attr]


class Reader(Protocol):
    """Where prompts come from."""

    def read(self) -> str | None:
        """Return the next line, None at the end; raise `Stopped` at Ctrl-C."""
        ...


class Pipe:
    """Lines of standard input."""

    def read(self) -> str | None:
        """Return the next line."""
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            raise Stopped("left the chat", 130) from None
        return line.rstrip("\r\n") if line else None


class Typed:
    """Lines typed at a terminal.

    Parameters
    ----------
    ask
        Shows a prompt and returns what was typed.
    out
        Where the prompt and its end go.
    """

    def __init__(self, ask: Any, out: TextIO):
        self._ask, self._out = ask, out

    def read(self) -> str | None:
        """Ask for the next line."""
        print(file=self._out, flush=True)
        try:
            return self._ask(PROMPT)
        except EOFError:
            print(file=self._out)
            return None
        except KeyboardInterrupt:
            print(file=self._out)
            raise Stopped("left the chat", 130) from None


def reader(words: Sequence[str]) -> Reader:
    """Return how to read here: line editing where there is some, `words` to complete."""
    if not sys.stdin.isatty():
        return Pipe()
    if not sys.stdout.isatty():
        return Typed(_ask_aside, sys.stderr)
    try:
        from prompt_toolkit import PromptSession  # pyright: ignore
        from prompt_toolkit.completion import WordCompleter  # pyright: ignore
        from prompt_toolkit.history import InMemoryHistory  # pyright: ignore
    except ImportError:
        # Without the extra `chat`, Python's own line editing, where it has some.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
        return Typed(input, sys.stdout)
    session: Any = PromptSession(
        history=InMemoryHistory(),
        completer=WordCompleter(list(words), sentence=True),
        complete_while_typing=False,
    )
    return Typed(session.prompt, sys.stdout)


def _ask_aside(prompt: str) -> str:
    """Ask on stderr, since stdout is a file that shall hold the answers alone."""
    print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")
