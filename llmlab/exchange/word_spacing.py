"""The spaces between words and marks, as far as a decoder of tokenizer.json can set them.

llmlab's rules (`llmlab.text.spacing`) as patterns over the words joined by single spaces. Where
several marks meet, the patterns may decide otherwise; the ids are the same in any case.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from llmlab.text.spacing import MARK_RANGES

_EDGE = rf"[\s{MARK_RANGES}]"  # white space or an ASCII mark: what a word ends at
_WORD = rf"[^\s{MARK_RANGES}]"
_SUFFIX = rf"(?:s|t|re|ve|ll|d|m|S|T|RE|VE|LL|D|M)(?={_EDGE}|\z)"
_RULES = (
    r" (?=[.,!?;:)\]}%])",  # closing marks join what precedes them
    r"(?<=[(\[{$#@]) ",  # opening marks join what follows
    r"(?<![.,!?;:]) (?=[-_^\\/])",
    r"(?<=:) (?=/)",
    r"(?<=[-_^\\/]) ",
    rf"(?<={_WORD}) (?=' {_SUFFIX})",  # don't, it's
    rf"(?<={_WORD}') (?={_SUFFIX})",
    rf"(?<=\A[oOyY]|{_EDGE}[oOyY]) (?=' {_WORD})",  # o'clock
    rf"(?<=\A[oOyY]'|{_EDGE}[oOyY]') (?={_WORD})",
    r"(?<=[0-9]\.) (?=[0-9])",
    r"(?<=[0-9],) (?=[0-9]{3}(?![0-9]))",
    r"(?<=[0-9]:) (?=[0-9]{2}(?![0-9]))",
    rf"(?<=\A[a-zA-Z]\.|{_EDGE}[a-zA-Z]\.) (?=[a-zA-Z]\.)",  # e.g.
)


def decoder(spacing: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Return the decoder of a word tokenizer with these exceptions `[left, right, space]`."""
    # WordPiece makes " word" of each token but the first: none begins with that prefix.
    steps: list[dict[str, Any]] = [
        {"type": "WordPiece", "prefix": "\0\0", "cleanup": False},
        {"type": "Fuse"},
    ]
    steps += [_replace(pattern, "") for pattern in _RULES]
    steps += [_replace(pattern, "") for mark in "\"`'" for pattern in _quotes(mark)]
    for wanted in (False, True):
        places = [
            rf"(?<={_last(left)}){'' if wanted else ' '}(?={_first(right)})"
            for left, right, space in spacing
            if space is wanted
        ]
        if places:
            steps.append(_replace("|".join(places), " " if wanted else ""))
    return {"type": "Sequence", "decoders": steps}


def _quotes(mark: str) -> list[str]:
    r"""Return patterns for the spaces inside of quotes, which open and close in turn.

    `\G` is where the match before ended, and what `\K` has passed isn't replaced.
    """
    if mark != "'":
        other = rf"[^{mark}]*"
        return [
            rf"(?:\A{other}|\G(?!\A){other}{mark}{other}){mark}\K ",
            rf"(?:\A{other}|\G(?!\A){mark}{other}){mark}{other}?\K (?={mark})",
        ]
    # An apostrophe that joins a word is none; one without a partner ends a plural.
    free, other = rf"(?<!{_WORD})'", rf"(?:[^']|(?<={_WORD})')*"
    return [
        rf"\A(?:{other}{free}{other}{free})*{other}(?<={_WORD})\K (?='{other}\z)",
        rf"(?:\A{other}|\G(?!\A){other}{free}{other}){free}\K ",
        rf"(?:\A{other}|\G(?!\A){free}{other}){free}{other}?\K (?=')",
    ]


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _last(token: str) -> str:
    """Return a pattern, of fixed widths, for a whole token that ends here."""
    text = re.escape(token)
    return rf"\A{text}|{_EDGE}{text}" if re.match(_WORD, token) else text


def _first(token: str) -> str:
    """Return a pattern for a whole token that begins here."""
    text = re.escape(token)
    return rf"{text}(?={_EDGE}|\z)" if re.match(_WORD, token) else text
