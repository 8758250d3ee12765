"""Texts from files: JSON arrays, JSON lines, CSV and plain text, checked as they are read."""

import csv
from collections.abc import Iterator
from pathlib import Path

from llmlab.errors import DataError
from llmlab.text.files import InvalidUtf8, TextFile
from llmlab.text.json_texts import Entry, array_entries, line_entries
from llmlab.text.templates.base import Message

LISTS = (".json", ".jsonl", ".ndjson", ".csv")  # the suffixes of files that list their texts


def read_texts(
    path: str | Path, invalid_utf8: InvalidUtf8 = "error", notices: bool = True
) -> Iterator[tuple[str, int]]:
    r"""Yield the texts of a file, each with the number of the line that it begins on.

    The suffix decides: `.json` is an array of strings; `.jsonl` and `.ndjson` hold a string,
    or an object with a string `text`, per line; `.csv` has a column `text`, or else its first
    column is taken; anything else is plain text, a sample per line. Blank texts are passed over.
    A further suffix `.gz` means that it is packed.

    A byte order mark is dropped; `\r\n` and a lone `\r` are line ends; NUL and other control
    characters become spaces. Each of these is reported once to the logger `llmlab`.

    Parameters
    ----------
    path
        The file; a leading `~` is the home folder.
    invalid_utf8
        What bytes that are not UTF-8 do: raise, or become U+FFFD.
    notices
        False for a second reading of the same file.

    Raises
    ------
    DataError
        The file is missing, unreadable, without text, not UTF-8 or not of its format, or has a
        line that no memory should hold. Names the absolute path and, where it applies, the line
        and the byte.
    """
    source = TextFile(path, invalid_utf8)
    yield from source_texts(source)
    if notices:
        source.notify()


def read_chats(
    path: str | Path, invalid_utf8: InvalidUtf8 = "error", notices: bool = True
) -> Iterator[tuple[Entry, int]]:
    """Yield what `read_texts` does, and the messages of objects that are chats.

    Such an object, in JSON lines or in an array, is one of

    - `{"messages": [{"role": "user", "content": "Hello!"}, ...]}`; a content may be a list of
      parts of text;
    - ShareGPT's `{"conversations": [{"from": "human", "value": "Hello!"}, ...]}`;
    - Alpaca's `{"instruction": ..., "input": ..., "output": ...}`; the input follows the
      instruction on a line of its own.
    """
    source = TextFile(path, invalid_utf8)
    yield from _read(source, chats=True)
    if notices:
        source.notify()


def source_texts(source: TextFile) -> Iterator[tuple[str, int]]:
    """Yield what `read_texts` does; what is peculiar about the file is left in its counts."""
    for entry, number in _read(source, chats=False):
        assert isinstance(entry, str)
        yield entry, number


def _read(source: TextFile, chats: bool) -> Iterator[tuple[Entry, int]]:
    texts = entries = 0
    with source.open() as file:
        for entry, number in _entries(source.lines(file), source, chats):
            entries += 1
            if isinstance(entry, str):
                entry = _clean(entry, source, number)
                blank = not entry or entry.isspace()
            else:
                entry = [Message(m.role, _clean(m.content, source, number)) for m in entry]
                blank = False
            if not blank:
                texts += 1
                yield entry, number
    if not texts:
        raise DataError(
            f"{source.path}: no text in it ({source.size} bytes, {entries} entries, all blank)"
        )


def _clean(text: str, source: TextFile, number: int) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{source.path}:{number}: expected text, found a lone surrogate "
                f"(U+{ord(text[error.start]):04X}); write the character itself"
            ) from None
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return source.clean(text)


def _entries(
    lines: Iterator[tuple[str, int]], source: TextFile, chats: bool
) -> Iterator[tuple[Entry, int]]:
    if source.suffix == ".json":
        return array_entries(lines, source.path, chats)
    if source.suffix in (".jsonl", ".ndjson"):
        return line_entries(lines, source.path, chats)
    return _csv(lines, source) if source.suffix == ".csv" else lines


def _csv(lines: Iterator[tuple[str, int]], source: TextFile) -> Iterator[tuple[str, int]]:
    path = source.path
    reader = csv.reader((line + "\n" for line, _ in lines), strict=True)
    column: int | None = None
    headed = False
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}:{start}: not valid CSV: {error}") from None
        if row is None:
            break
        if not row:
            continue
        if column is None:
            names = [name.strip().lower() for name in row]
            headed = "text" in names
            column = names.index("text") if headed else 0
            if headed:
                continue
        if column >= len(row):
            raise DataError(
                f"{path}:{start}: expected {column + 1} or more columns, the last of them "
                f"'text', found {len(row)}"
            )
        if not headed:
            source.counts["columns"] = max(source.counts["columns"], len(row))
        yield row[column], start
