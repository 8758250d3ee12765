"""Strings out of JSON: one array of them, or one value per line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from llmlab.errors import DataError
from llmlab.text.templates.base import ROLES, Message

Numbered = Iterator[tuple[str, int]]
Entry = str | list[Message]

_BLANK = re.compile(r"[ \t\n\r]*")
_KINDS = {"{": "an object", "[": "an array", '"': "a string", "t": "true", "f": "false"}
_KINDS |= {"n": "null", "N": "NaN", "I": "Infinity", "": "the end of the file"}


def array_texts(lines: Numbered, path: Path) -> Numbered:
    """Yield the strings of a JSON array with the lines that they begin on.

    Goes from string to string instead of parsing the whole, so that every message can name a
    line and no depth of nesting can matter.
    """
    text = "\n".join(line for line, _ in lines)
    if not text.strip():
        return
    decoder = json.JSONDecoder()
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
    if text[position] == "{":
        refuse("an array of strings (one object per line is .jsonl)", position)
    if text[position] != "[":
        refuse("an array of strings", position)
    position = skip(position + 1)
    more = not text.startswith("]", position)
    while more:
        if not text.startswith('"', position):
            refuse("a string", position)
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise _broken(path, error.lineno, error) from None
        yield value, number
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

    That is a string, or the member `text` of an object; with `chats` also an object's
    `messages`.
    """
    wanted = "a string or an object with a string 'text'"
    wanted = "a string or an object with 'messages'" if chats else wanted
    for line, number in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_constant=_refuse_constant)
        except RecursionError:
            raise DataError(f"{path}:{number}: nested too deeply; expected {wanted}") from None
        except json.JSONDecodeError as error:
            raise _broken(path, number, error) from None
        except ValueError as error:  # NaN, or an integer of thousands of digits
            raise DataError(f"{path}:{number}: not valid JSON: {error}") from None
        if chats and isinstance(value, dict) and "messages" in value:
            yield _messages(value["messages"], f"{path}:{number}"), number
            continue
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise DataError(f"{path}:{number}: expected {wanted}, found {_kind(value)}")
        yield text, number


def _messages(value: Any, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: 'messages': expected a list of messages, found {_kind(value)}")
    messages = []
    for n, item in enumerate(value):
        here = f"{where}: messages[{n}]"
        role = content = None
        if isinstance(item, dict):
            role, content = item.get("role"), item.get("content")
        if not isinstance(content, str):
            raise DataError(
                f"{here}: expected an object with 'role' and a string 'content', "
                f"found {_kind(item)}"
            )
        if role not in ROLES:
            found = "none" if role is None else ascii(role)[:40]
            raise DataError(f"{here}: expected a role of {', '.join(ROLES)}, found {found}")
        messages.append(Message(role, content))
    return messages


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _broken(path: Path, number: int, error: json.JSONDecodeError) -> DataError:
    return DataError(f"{path}:{number}: not valid JSON: {error.msg}, column {error.colno}")


def _at(text: str, position: int) -> str:
    start = text[position : position + 1]
    if start.isdigit() or start == "-":
        return "a number"
    return _KINDS.get(start, repr(start))


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        for key in ("text", "content"):
            if key in value and not isinstance(value[key], str):
                return f"an object whose '{key}' is {_kind(value[key])}"
        names = ", ".join(ascii(name[:20]) for name in list(value)[:5])
        return f"an object with {names}" if names else "an empty object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return "a string"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "a number"
