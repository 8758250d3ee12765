"""One text, one encoding: special tokens apart from what only looks like them, text in blocks.

The library knows a special token by its characters, so it can't tell those of a template from those
that a user typed. Here the special tokens have names that nobody can type.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmlab.errors import CheckpointError
from llmlab.text.foreign_tokenizer import guarded

_OVERLAP = 4096  # characters that two neighbouring windows of a long text share
_AGREE = 4  # tokens on both sides of a seam that must be the same in both windows


@dataclass(frozen=True)
class _Window:
    """A stretch of a long text, encoded: `spans` (N, 2) are the tokens' characters in it."""

    text: str
    ids: NDArray[np.int32]
    spans: NDArray[np.int64]


class Encoder:
    """Encode text with a tokenizer.json in which special tokens have secret names.

    `plain`: whether the library can't break down, as `guarded` has it.
    """

    def __init__(
        self, library: Any, content: Mapping[str, Any], special: Mapping[str, int], plain: bool
    ):
        self._plain = plain
        secret = secrets.token_hex(8)
        self._names = {token: f"<{secret}x{id:x}>" for token, id in special.items()}
        with guarded(plain):
            self._fast = library.Tokenizer.from_str(json.dumps(_renamed(content, self._names)))

    def ids(self, text: str) -> list[int]:
        """Return the ids of plain text."""
        # "fast" counts no offsets, which nobody asks for here.
        with guarded(self._plain), _told():
            (encoding,) = self._fast.encode_batch_fast([_valid(text)], add_special_tokens=False)
        return encoding.ids

    def fragments(
        self, fragments: Iterable[tuple[str, bool, bool]]
    ) -> tuple[list[int], list[bool]]:
        """Return the ids of one text in fragments, and for each whether it is marked.

        A fragment is text, whether it is the name of a special token, and the mark. A token that
        reaches into a marked fragment is marked.
        """
        parts: list[str] = []
        flags: list[tuple[bool, bool]] = []
        for text, special, mark in fragments:
            parts.append(self._names[text] if special else _valid(text))
            flags.append((special, mark))
        # Character by character; one more for tokens that stand for none, at the text's end.
        lengths = [*map(len, parts), 1]
        special, marked = np.repeat([*flags, (False, False)], lengths, axis=0).T
        with guarded(self._plain), _told():
            encoding = self._fast.encode("".join(parts), add_special_tokens=False)
        answers = []
        for begin, end in encoding.offsets:
            where = slice(begin, max(end, begin + 1))
            # A special token may take white space that stands beside it.
            own = special[where] if special[where].any() else ~special[where]
            answers.append(bool(marked[where][own].any()))
        return encoding.ids, answers

    def blocks(self, blocks: Iterable[str]) -> Iterator[NDArray[np.int32]]:
        """Yield the ids of a long text that comes in blocks, wherever these are cut.

        Each window begins with the end of the one before. They are joined in the middle of what
        they share, where both have the same tokens; without such a place the whole is encoded
        again.
        """
        before: _Window | None = None
        for block in blocks:
            if before is None:
                before = self._window(block)
                continue
            overlap, seam = _OVERLAP, None
            while seam is None:
                start = max(0, len(before.text) - overlap)
                after = self._window(before.text[start:] + block)
                seam = _seam(before, after, start)
                overlap *= 8
            yield before.ids[: seam[0]]
            after = _Window(after.text, after.ids[seam[1] :], after.spans[seam[1] :])
            before = after
        if before is not None:
            yield before.ids

    def _window(self, text: str) -> _Window:
        text = _valid(text)
        with guarded(self._plain), _told():
            encoding = self._fast.encode(text, add_special_tokens=False)
        spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        return _Window(text, np.array(encoding.ids, np.int32), spans)


@contextmanager
def _told() -> Iterator[None]:
    """Say in one line what the library can't encode: text without a token, and none for that."""
    try:
        yield
    except Exception as error:  # it raises bare Exception
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"the tokenizer can't encode this text: {reason:.200}") from None


def _seam(before: _Window, after: _Window, start: int) -> tuple[int, int] | None:
    """Return the token of each window at which the second takes over, or None.

    `after` begins at the character `start` of `before`. The place is that nearest to the middle of
    what they share; if that is all of `before`, the second has its tokens, too.
    """
    if start == 0:
        begin = before.spans[0, 0] if len(before.ids) else 0
        return 0, int(np.searchsorted(after.spans[:, 0], begin))
    first = int(np.searchsorted(before.spans[:, 0], start))
    ours = np.column_stack([before.spans[first:] - start, before.ids[first:]])
    shared = int(np.searchsorted(after.spans[:, 0], len(before.text) - start))
    theirs = np.column_stack([after.spans[:shared], after.ids[:shared]])
    place = {row.tobytes(): n for n, row in enumerate(theirs)}
    middle = (len(before.text) - start) // 2
    candidates = range(_AGREE, len(ours) - _AGREE)
    for n in sorted(candidates, key=lambda n: abs(int(ours[n, 0]) - middle)):
        at = place.get(ours[n].tobytes())
        if at is None or at < _AGREE:
            continue
        around = slice(n - _AGREE, n + _AGREE)
        if np.array_equal(ours[around], theirs[at - _AGREE : at + _AGREE]):
            return first + n, at
    return None


def _renamed(content: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a tokenizer.json in which special tokens have other names, everywhere.

    In the model's vocabulary, too: some models look whole words up in it.
    """
    model = dict(content["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, Mapping):
        model["vocab"] = {names.get(token, token): id for token, id in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"]]
        model["merges"] = [p for p in pairs if names.keys().isdisjoint((*p, "".join(p)))]
    added = [
        {**token, "content": names.get(token["content"], token["content"])}
        for token in content.get("added_tokens") or ()
    ]
    return {**content, "model": model, "added_tokens": added, "post_processor": None}


def _valid(text: str) -> str:
    """Return `text` with `?` for a lone surrogate, which has no bytes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def special_tokens(content: Mapping[str, Any]) -> set[str]:
    """Return the special tokens of a tokenizer.json."""
    return {token["content"] for token in content.get("added_tokens") or () if token["special"]}


def members(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the members of a sequence of decoders, or the only one."""
    if part is None:
        return []
    return part["decoders"] if part.get("type") == "Sequence" else [part]


def unknown_token(model: Mapping[str, Any]) -> str | None:
    """Return what stands for the unknown; a Unigram model has its number in a list of pairs."""
    n, vocabulary = model.get("unk_id"), model.get("vocab")
    numbered = vocabulary[n][0] if n is not None and isinstance(vocabulary, list) else None
    return model.get("unk_token") or numbered
