"""Strings out of JSON: one array of them, or one value per line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from llmlab.errors import DataError
from llmlab.text.chat_forms import WANTED, chat_of, kind
from llmlab.text.templates.base import Message

Numbered = Iterator[tuple[str, int]]
Entry = str | list[Message]

_BLANK = re.compile(r"[ \t\n\r]*")
_KINDS = {"{": "an object", "[": "an array", '"': "a string", "t": "true", "f": "false"}
_KINDS |= {"n": "null", "N": "NaN", "I": "Infinity", "": "the end of the file"}


def array_entries(lines: Numbered, path: Path, chats: bool) -> Iterator[tuple[Entry, int]]:
    """Yield the strings of a JSON array, with `chats` also chats, and the lines they begin on.

    Goes from entry to entry instead of parsing the whole, so that every message can name a line
    and no depth of nesting can matter.
    """
    text = "\n".join(line for line, _ in lines)
    if not text.strip():
        return
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    number, counted = 1, 0

    def skip(position: int) -> int:
        nonlocal number, counted
        blank = _BLANK.match(text, position)
        position = blank.end() if blank else position
        number += text.count("\n", counted, position)
        counted = position
        return position

    def refuse(expected: str, position: int) -> NoReturn:
        raise DataError(f"{path}:{number}: expected {expected}, found {_at(text, position)}")

    position = skip(0)
    wanted = "an array of strings or chats" if chats else "an array of strings"
    if text[position] == "{":
        refuse(f"{wanted} (one object per line is .jsonl)", position)
    if text[position] != "[":
        refuse(wanted, position)
    position = skip(position + 1)
    more = not text.startswith("]", position)
    while more:
        if not text.startswith('"', position) and not (chats and text.startswith("{", position)):
            refuse("a string or a chat" if chats else "a string", position)
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise _broken(path, error.lineno, error) from None
        except (RecursionError, ValueError) as error:
            raise DataError(f"{path}:{number}: {_unreadable(error)}") from None
        if isinstance(value, str):
            yield value, number
        else:
            yield _chat(value, f"{path}:{number}"), number
        position = skip(position)
        more = text.startswith(",", position)
        if not more and not text.startswith("]", position):
            refuse("',' or ']'", position)
        position = skip(position + 1) if more else position
    position = skip(position + 1)
    if position < len(text):
        refuse("nothing after the array", position)


def line_entries(lines: Numbered, path: Path, chats: bool) -> Iterator[tuple[Entry, int]]:
    """Yield what each line that is not blank holds.

    That is a string, or the member `text` of an object; with `chats` also a chat of any form.
    """
    wanted = WANTED if chats else "a string or an object with a string 'text'"
    for line, number in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise _broken(path, number, error) from None
        except (RecursionError, ValueError) as error:
            reason = f"{_unreadable(error)}; expected {wanted}"
            raise DataError(f"{path}:{number}: {reason}") from None
        chat = chat_of(value, f"{path}:{number}") if chats else None
        if chat is not None:
            yield chat, number
            continue
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise DataError(f"{path}:{number}: expected {wanted}, found {kind(value)}")
        yield text, number


def _chat(value: Any, where: str) -> Entry:
    chat = chat_of(value, where)
    text = value.get("text") if chat is None else chat
    if not isinstance(text, str | list):
        raise DataError(f"{where}: expected {WANTED}, found {kind(value)}")
    return text


def _unreadable(error: Exception) -> str:
    """Return what is wrong with JSON that nests too deep, holds NaN, or an endless integer."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return f"not valid JSON: {error}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _broken(path: Path, number: int, error: json.JSONDecodeError) -> DataError:
    return DataError(f"{path}:{number}: not valid JSON: {error.msg}, column {error.colno}")


def _at(text: str, position: int) -> str:
    start = text[position : position + 1]
    if start.isdigit() or start == "-":
        return "a number"
    return _KINDS.get(start, repr(start))
