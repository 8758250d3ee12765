"""Terminals and pipes: reading lines, and showing text that nobody has checked."""

import contextlib
import re
import sys
from collections.abc import Sequence
from shutil import get_terminal_size
from typing import Any, Protocol, TextIO
from unicodedata import combining, east_asian_width

from llmlab.errors import DataError, Stopped

PROMPT = "you> "
LONGEST = 1_000_000  # characters of a line; without a limit /dev/zero would fill the memory
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
    """Return `text` without anything that a terminal would execute instead of showing it."""
    return text.translate(_HARMLESS)


def shown(text: str, out: TextIO) -> str:
    """Return what may be written to `out`: a terminal gets no control characters."""
    return printable(text) if out.isatty() else text


class Wrapped:
    """Text for a terminal of `width` columns, broken between words and not at the edge.

    It may come in pieces; a word is held back until its end is there. Lines but the first begin
    with `indent`; the first at `column`. A word that is wider than a line is the terminal's affair.
    """

    def __init__(self, width: int, column: int = 0, indent: str = ""):
        self._width, self._column, self._indent = width, column, indent
        self._space = self._word = ""

    def add(self, text: str) -> str:
        """Return what can be printed of all text so far and wasn't yet."""
        out = ""
        for part in re.findall(r"\n|[^\S\n]+|\S+", text):
            if part.isspace():
                out += self.rest() if self._word else ""
                if part == "\n":
                    self._space, self._column = "", len(self._indent)
                    out += f"\n{self._indent}"
                else:
                    self._space += part
            else:
                self._word += part
        return out

    def rest(self) -> str:
        """Return what was held back."""
        space, word = self._space, self._word
        self._space = self._word = ""
        before, size = columns(space), columns(word)
        if space and self._column + before + size > self._width and word:
            self._column = len(self._indent) + size
            return f"\n{self._indent}{word}"
        self._column += before + size
        return f"{space}{word}"


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    wide = sum(east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(bool(combining(character)) for character in text)


def wrapped(text: str, out: TextIO, column: int = 0) -> str:
    """Return `text` for `out`: as it is, or for a terminal harmless, and broken between words."""
    if not out.isatty():
        return text
    lines = Wrapped(get_terminal_size().columns, column, " " * column)
    return lines.add(printable(text)) + lines.rest()


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
            return _line()
        except KeyboardInterrupt:
            raise Stopped("left the chat", 130) from None


class Typed:
    """Lines typed at a terminal."""

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
    line = _line()
    if line is None:
        raise EOFError
    return line


def _line() -> str | None:
    line = sys.stdin.readline(LONGEST + 1)
    if len(line) > LONGEST:
        raise DataError(f"standard input: a line longer than {LONGEST:,} characters; break it up")
    return line.rstrip("\r\n") if line else None
