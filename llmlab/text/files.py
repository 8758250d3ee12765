"""A file of text: opened, decoded and cleaned, in bounded memory."""

import codecs
import gzip
import hashlib
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, cast

from llmlab.errors import ConfigError, DataError, suggest
from llmlab.regular_file import open_regular
from llmlab.text.paths import absolute

logger = logging.getLogger("llmlab")

InvalidUtf8 = Literal["error", "replace"]

MAX_LINE = 16 * 2**20  # bytes; more on one line is no line of a list of texts
BLOCK = 2**18  # bytes
_LOOK_BACK = 4096  # characters at a block's end that are searched for a place to cut
_BOM = b"\xef\xbb\xbf"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# All of C0 and C1 except tab and line feed; carriage returns are line ends before this.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Between two words: here no tokenizer joins what follows with what came before.
_SEAM = re.compile(r"\w(?= \w)")


class TextFile:
    r"""A file of UTF-8 text, plain or gzip.

    A byte order mark is dropped; `\r\n` and a lone `\r` are line ends; NUL and other control
    characters become spaces. What was found of these is counted, for `notify`.
    """

    def __init__(
        self,
        path: str | Path,
        # What bytes that are not UTF-8 do: raise, or become U+FFFD
        invalid_utf8: InvalidUtf8 = "error",
        # Called with the number of bytes of the file that were taken since the last call
        watch: Callable[[int], object] | None = None,
    ):
        if invalid_utf8 not in ("error", "replace"):
            raise ConfigError(f"invalid_utf8={invalid_utf8!r}: expected error or replace")
        self.path = absolute(path)
        self.zipped = self.path.suffix.lower() == ".gz"
        inner = self.path.with_suffix("") if self.zipped else self.path
        self.suffix = inner.suffix.lower()
        self.size = 0  # in bytes, known once it is open
        self.counts: dict[str, int] = {}  # how often each peculiarity was met
        self.counts.update(bom=0, line_ends=0, replaced=0, control=0, columns=0)
        self._replace = invalid_utf8 == "replace"
        self._watch = watch

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file to read its (unpacked) bytes; errors come as `DataError`."""
        try:
            with self._open() as file:
                self.size = os.fstat(file.fileno()).st_size
                yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if self.zipped else file
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        except (EOFError, zlib.error) as error:
            raise DataError(f"{self.path}: damaged gzip file: {error}") from error

    def _open(self) -> BinaryIO:
        path = self.path
        try:
            return open_regular(path)
        except FileNotFoundError:
            raise DataError(f"{path}: no such file{_similar(path)}") from None
        except IsADirectoryError:
            raise DataError(
                f"{path}: is a folder; expected a file of text, .json, .jsonl or .csv"
            ) from None
        except ValueError as error:  # a NUL in the name
            raise DataError(f"{str(path)!r}: not a possible file name: {error}") from None

    def sha256(self) -> str:
        """Return the hash of the file as it lies on the disk."""
        digest = hashlib.sha256()
        try:
            with self._open() as file:
                while part := file.read(BLOCK):
                    digest.update(part)
                    if self._watch:
                        self._watch(len(part))
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        return digest.hexdigest()

    def lines(self, file: BinaryIO) -> Iterator[tuple[str, int]]:
        """Yield each line of an open file, without its end, with its number."""
        number = offset = 0
        while raw := file.readline(MAX_LINE + 1):
            if self._watch:
                self._watch(len(raw))
            if len(raw) > MAX_LINE:
                raise DataError(
                    f"{self.path}:{number + 1}: a line of more than {MAX_LINE >> 20} MiB; "
                    "type=text reads text of any form, .jsonl takes a text per line"
                )
            skipped = self._skip_bom(raw) if offset == 0 else 0
            line, _ = self._decode(raw[skipped:], offset + skipped, number, final=True)
            offset += len(raw)
            line = line.removesuffix("\n")
            if "\r" in line:
                self.counts["line_ends"] += line.count("\r")
                line = line.removesuffix("\r")
            for part in line.split("\r"):
                number += 1
                yield part, number

    def blocks(self) -> Iterator[str]:
        """Yield the whole text, cleaned, in blocks that are cut between words where possible.

        Where the cuts lie depends on the text alone.
        """
        with self.open() as file:
            number = offset = 0
            rest, text = b"", ""
            while rest is not None:
                raw = file.read(BLOCK)
                data = rest + raw
                skipped = self._skip_bom(data) if offset == 0 else 0
                final = not raw
                more, used = self._decode(data[skipped:], offset + skipped, number, final)
                number += more.count("\n") + more.replace("\r\n", "").count("\r")
                offset += skipped + used
                rest = None if final else data[skipped + used :]
                text = self._line_ends(text + more, final)
                cut = len(text) if final else _seam(text)
                if block := text[:cut]:
                    yield self.clean(block)
                text = text[cut:]
                if self._watch:
                    # Of a packed file, `raw` is longer than what was taken from the disk.
                    self._watch(len(raw))

    def _line_ends(self, text: str, final: bool) -> str:
        """Make every line end a line feed; a last carriage return waits for what follows."""
        if "\r" not in text:
            return text
        waiting = "" if final or not text.endswith("\r") else "\r"
        text = text.removesuffix(waiting)
        self.counts["line_ends"] += text.count("\r")
        return text.replace("\r\n", "\n").replace("\r", "\n") + waiting

    def _skip_bom(self, start: bytes) -> int:
        if not start.startswith(_BOM):
            return 0
        self.counts["bom"] = 1
        return len(_BOM)

    def _decode(self, raw: bytes, offset: int, lines: int, final: bool) -> tuple[str, int]:
        """Return the text of `raw`, and how many of its bytes that takes.

        `offset` bytes and `lines` lines lie before it. Unless `final`, an unfinished character
        at its end is left.
        """
        try:
            return codecs.utf_8_decode(raw, "strict", final)
        except UnicodeDecodeError as error:
            if self._replace:
                text, used = codecs.utf_8_decode(raw, "replace", final)
                own = raw[:used].count(_REPLACEMENT.encode())
                self.counts["replaced"] += text.count(_REPLACEMENT) - own
                return text, used
            before = raw[: error.start]
            line = lines + 1 + before.count(b"\n") + before.replace(b"\r\n", b"").count(b"\r")
            wide = offset == 0 and raw[:2] in (b"\xff\xfe", b"\xfe\xff")
            guess = " (it looks like UTF-16)" if wide else ""
            raise DataError(
                f"{self.path}:{line}: byte {offset + error.start} (0x{raw[error.start]:02x}) is "
                f"not UTF-8{guess}; save the file as UTF-8, or set {{option}}",
                "invalid_utf8=replace",
            ) from None

    def clean(self, text: str) -> str:
        """Return `text` with spaces in place of control characters."""
        if _CONTROL.search(text):
            text, found = _CONTROL.subn(" ", text)
            self.counts["control"] += found
        return text

    def notify(self) -> None:
        """Say what was peculiar about the file."""
        texts = {
            "bom": "byte order mark dropped",
            "line_ends": "%d carriage returns read as line ends",
            "replaced": "%d invalid UTF-8 sequences replaced by U+FFFD",
            "control": "%d control characters (NUL and the like) replaced by spaces",
        }
        for kind, text in texts.items():
            if count := self.counts[kind]:
                logger.warning("%s: " + text, self.path, *([count] if "%d" in text else []))
        if self.counts["columns"] > 1:
            # Likely texts whose commas nobody quoted.
            logger.warning("%s: no column 'text'; only the first column is read", self.path)


def _similar(path: Path) -> str:
    try:
        return suggest(path.name, sorted(os.listdir(path.parent)))
    except OSError:
        return f"; nor is there a folder {path.parent}"


def _seam(text: str) -> int:
    """Return where the last word that can be cut off begins; without one, the end."""
    start = max(0, len(text) - _LOOK_BACK)
    last = 0
    for match in _SEAM.finditer(text, start):
        last = match.end()
    return last or len(text) - text.endswith("\r")
