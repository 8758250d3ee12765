"""The spaces between words and marks, as far as a decoder of tokenizer.json can set them.

llmlab's rules (`llmlab.text.spacing`) look at whole sentences, which these patterns can't: quotes
that open and close in turn, and numbers, come out as the rules have them only in plain cases.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

# A word's letters: neither white space nor an ASCII mark.
_WORD = r"[^\s!-/:-@\[-`{-~]"
_RULES = (
    (r" (?=[.,!?;:)\]}%])", ""),  # closing marks join what precedes them
    (r"(?<=[(\[{$#@]) ", ""),  # opening marks join what follows
    (r" (?=[-_^\\/])", ""),
    (r"(?<=[-_^\\/]) ", ""),
    (rf"(?<={_WORD}) '(?= (s|t|re|ve|ll|d|m|S|T|RE|VE|LL|D|M)( |$|[!-/:-@\[-`{{-~]))", "'"),
    (rf"(?<={_WORD})' (?=(s|t|re|ve|ll|d|m|S|T|RE|VE|LL|D|M)( |$|[!-/:-@\[-`{{-~]))", "'"),
    (r"(?<=[0-9]\.) (?=[0-9])", ""),
    (r"(?<=[0-9],) (?=[0-9]{3}( |$|[^0-9]))", ""),
    (r"(?<=[0-9]:) (?=[0-9]{2}( |$|[^0-9]))", ""),
)


def decoder(spacing: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Return the decoder of a word tokenizer with these exceptions `[left, right, space]`."""
    # The first makes " word" of each token but the first; no token has that prefix.
    steps: list[dict[str, Any]] = [
        {"type": "WordPiece", "prefix": "\0\0", "cleanup": False},
        {"type": "Fuse"},
    ]
    steps += [_replace(pattern, content) for pattern, content in _RULES]
    for left, right, space in spacing:
        before, after = _edge(left, "left"), _edge(right, "right")
        if space:
            steps.append(_replace(rf"(?<={before})(?={after})", " "))
        else:
            steps.append(_replace(rf"(?<={before}) (?={after})", ""))
    return {"type": "Sequence", "decoders": steps}


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _edge(token: str, side: str) -> str:
    """Return a pattern for a whole token beside the place in question."""
    text = re.escape(token)
    if not re.fullmatch(_WORD, token[0]):
        return text
    return rf"{text}(?!{_WORD})" if side == "right" else rf"(?<!{_WORD}){text}"
