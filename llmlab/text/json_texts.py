"""Strings out of JSON: one array of them, or one value per line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from llmlab.errors import DataError

Numbered = Iterator[tuple[str, int]]

_blank = re.compile(r"[ \t\n\r]*")
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
        blank = _blank.match(text, position)
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


def line_texts(lines: Numbered, path: Path) -> Numbered:
    """Yield the string, or the member `text` of the object, on each line that is not blank."""
    for line, number in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_constant=_refuse_constant)
        except RecursionError:
            raise DataError(
                f"{path}:{number}: nested too deeply; expected a string or an object with 'text'"
            ) from None
        except json.JSONDecodeError as error:
            raise _broken(path, number, error) from None
        except ValueError as error:  # NaN, or an integer of thousands of digits
            raise DataError(f"{path}:{number}: not valid JSON: {error}") from None
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise DataError(
                f"{path}:{number}: expected a string or an object with a string 'text', "
                f"found {_kind(value)}"
            )
        yield text, number


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
        if "text" in value:
            return f"an object whose 'text' is {_kind(value['text'])}"
        names = ", ".join(ascii(name[:20]) for name in list(value)[:5])
        return f"an object with {names}" if names else "an empty object"
    if isinstance(value, list):
        return "an array"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "a number"
