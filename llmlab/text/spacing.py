"""Where spaces stand between the words and punctuation marks of English text."""

import re
from collections.abc import Sequence

MARK_RANGES = r"!-/:-@\[-`{-~"  # ASCII punctuation, for the brackets of a pattern
MARKS = frozenset(chr(code) for code in range(128) if re.match(f"[{MARK_RANGES}]", chr(code)))
_CLOSING = frozenset(".,!?;:)]}%")
_OPENING = frozenset("([{$#@")
_BETWEEN = frozenset("-/_^\\")
_STOPS = frozenset(".,!?;:")
_SUFFIXES = frozenset({"s", "t", "re", "ve", "ll", "d", "m"})
_PREFIXES = frozenset({"o", "O", "y", "Y"})


def spaces_before(tokens: Sequence[str]) -> list[bool]:
    """Return for each token whether a space goes before it.

    Closing marks join what precedes them, opening ones what follows; hyphens and slashes join
    both; quotes open and close in turn; apostrophes are told from single quotes by what stands
    around them; a point, comma or colon within a number joins both.
    """
    joins = [_joins(tokens, i) for i in range(len(tokens))]
    for mark in "\"`'":
        _pair_quotes(tokens, mark, joins)
    return [i > 0 and not (before or joins[i - 1][1]) for i, (before, _) in enumerate(joins)]


def _joins(tokens: Sequence[str], i: int) -> tuple[bool, bool]:
    """Return whether token `i` joins its left and its right neighbour, quotes apart."""
    token = tokens[i]
    if token not in MARKS:
        return False, False
    left = tokens[i - 1] if i else ""
    right = tokens[i + 1] if i + 1 < len(tokens) else ""
    if token in _BETWEEN:
        return left not in _STOPS or (token == "/" and left == ":"), True
    if token == "'":
        inside = _word(left) and (
            right.lower() in _SUFFIXES or (left in _PREFIXES and _word(right))
        )
        return inside, inside
    if token in _CLOSING:
        return True, _within_number(token, left, right) or _abbreviation(tokens, i)
    return False, token in _OPENING


def _word(token: str) -> bool:
    return token != "" and token not in MARKS


def _digits(token: str) -> bool:
    return token.isascii() and token.isdigit()


def _within_number(mark: str, left: str, right: str) -> bool:
    if not (_digits(left) and _digits(right)):
        return False
    if mark == ",":
        return len(left) <= 3 and len(right) == 3
    return mark == "." or (mark == ":" and len(right) == 2)


def _abbreviation(tokens: Sequence[str], i: int) -> bool:
    """Return whether the point at `i` is the first one of "e.g." or "U.S."."""
    around = [*tokens[max(i - 1, 0) : i], *tokens[i + 1 : i + 3]]
    if tokens[i] != "." or len(around) < 3:
        return False
    left, right, after = around
    return after == "." and all(len(t) == 1 and t.isalpha() for t in (left, right))


def _pair_quotes(tokens: Sequence[str], mark: str, joins: list[tuple[bool, bool]]) -> None:
    """Set what each quote joins, taking those that are no apostrophes in turns."""
    places = [i for i, token in enumerate(tokens) if token == mark and joins[i] == (False, False)]
    opened = False
    for n, i in enumerate(places):
        # An apostrophe without a partner ends a plural: "the rivers' banks".
        alone = mark == "'" and not opened and n == len(places) - 1
        if opened or (alone and i > 0 and _word(tokens[i - 1])):
            joins[i] = (True, False)
            opened = False
        else:
            joins[i] = (False, True)
            opened = True
