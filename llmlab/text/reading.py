"""Texts from files: JSON arrays, JSON lines, CSV and plain text, checked as they are read."""

import csv
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from llmlab.errors import ConfigError, DataError, suggest
from llmlab.text.json_texts import array_texts, line_texts

logger = logging.getLogger("llmlab")

InvalidUtf8 = Literal["error", "replace"]
Numbered = Iterator[tuple[str, int]]

_BOM = b"\xef\xbb\xbf"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# All of C0 and C1 except tab and line feed; carriage returns are line ends before this.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def read_texts(
    path: str | Path, invalid_utf8: InvalidUtf8 = "error", notices: bool = True
) -> Numbered:
    r"""Yield the texts of a file, each with the number of the line that it begins on.

    The suffix decides: `.json` is an array of strings; `.jsonl` and `.ndjson` hold a string,
    or an object with a string `text`, per line; `.csv` has a column `text`, or else its first
    column is taken; anything else is plain text, a sample per line. Blank texts are passed over.

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
        The file is missing, unreadable, without text, not UTF-8 or not of its format. Names
        the absolute path and, where it applies, the line and the byte.
    """
    if invalid_utf8 not in ("error", "replace"):
        raise ConfigError(f"invalid_utf8={invalid_utf8!r}: expected error or replace")
    where = absolute(path)
    counts: dict[str, int] = {}
    counts.update(bom=0, line_ends=0, replaced=0, control=0, columns=0)
    texts = entries = 0
    try:
        with _open(where) as file:
            size = os.fstat(file.fileno()).st_size
            lines = _lines(file, where, invalid_utf8, counts)
            for text, number in _entries(lines, where, counts):
                entries += 1
                text = _clean(text, where, number, counts)
                if text and not text.isspace():
                    texts += 1
                    yield text, number
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from error
    if not texts:
        raise DataError(f"{where}: no text in it ({size} bytes, {entries} entries, all blank)")
    if notices:
        _notify(where, counts)


def absolute(path: str | Path) -> Path:
    """Return the absolute path of a file that a user named."""
    if not isinstance(path, str | Path):
        raise ConfigError(f"path={path!r}: expected the name of a file")
    return Path(os.path.abspath(os.path.expanduser(path)))


def _open(path: Path) -> BinaryIO:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"{path}: no such file{_similar(path)}") from None
    except ValueError as error:  # a NUL in the name
        raise DataError(f"{str(path)!r}: not a possible file name: {error}") from None
    if stat.S_ISDIR(mode):
        raise DataError(f"{path}: is a folder; expected a file of text, .json, .jsonl or .csv")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: is not a regular file; it could not be read twice")
    return path.open("rb")


def _similar(path: Path) -> str:
    try:
        return suggest(path.name, sorted(os.listdir(path.parent)))
    except OSError:
        return f"; nor is there a folder {path.parent}"


def _lines(file: BinaryIO, path: Path, invalid_utf8: str, counts: dict[str, int]) -> Numbered:
    """Yield each line, decoded and without its end, with its number."""
    number = offset = 0
    for raw in file:
        skipped = 0
        if offset == 0 and raw.startswith(_BOM):
            counts["bom"] = 1
            skipped = len(_BOM)
        try:
            line = raw[skipped:].decode("utf-8")
        except UnicodeDecodeError as error:
            start = skipped + error.start
            if invalid_utf8 == "error":
                at = number + 1 + raw[:start].count(b"\r")
                raise DataError(
                    f"{path}:{at}: byte {offset + start} (0x{raw[start]:02x}) is not UTF-8"
                    f"{_guess(raw) if offset == 0 else ''}; save the file as UTF-8, "
                    "or set invalid_utf8=replace"
                ) from None
            line = raw[skipped:].decode("utf-8", "replace")
            counts["replaced"] += line.count(_REPLACEMENT) - raw.count(_REPLACEMENT.encode())
        offset += len(raw)
        line = line.removesuffix("\n")
        if "\r" in line:
            counts["line_ends"] += line.count("\r")
            line = line.removesuffix("\r")
        for part in line.split("\r"):
            number += 1
            yield part, number


def _guess(start: bytes) -> str:
    return " (it looks like UTF-16)" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else ""


def _clean(text: str, path: Path, number: int, counts: dict[str, int]) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{path}:{number}: expected text, found a lone surrogate "
                f"(U+{ord(text[error.start]):04X}); write the character itself"
            ) from None
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _CONTROL.search(text):
        text, found = _CONTROL.subn(" ", text)
        counts["control"] += found
    return text


def _notify(path: Path, counts: dict[str, int]) -> None:
    if counts["bom"]:
        logger.warning("%s: byte order mark dropped", path)
    if counts["line_ends"]:
        logger.warning("%s: %d carriage returns read as line ends", path, counts["line_ends"])
    if counts["replaced"]:
        logger.warning(
            "%s: %d invalid UTF-8 sequences replaced by U+FFFD", path, counts["replaced"]
        )
    if counts["control"]:
        logger.warning(
            "%s: %d control characters (NUL and the like) replaced by spaces",
            path,
            counts["control"],
        )
    if counts["columns"] > 1:
        # Likely texts whose commas nobody quoted.
        logger.warning("%s: no column 'text'; only the first column is read", path)


def _entries(lines: Numbered, path: Path, counts: dict[str, int]) -> Numbered:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return array_texts(lines, path)
    if suffix in (".jsonl", ".ndjson"):
        return line_texts(lines, path)
    return _csv(lines, path, counts) if suffix == ".csv" else lines


def _csv(lines: Numbered, path: Path, counts: dict[str, int]) -> Numbered:
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
            counts["columns"] = max(counts["columns"], len(row))
        yield row[column], start
