"""A template of somebody else's, in Jinja, as Hugging Face's folders hold it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date as calendar_date
from itertools import count, pairwise, takewhile

from llmlab.errors import ConfigError, DataError
from llmlab.text.renderer import Renderer
from llmlab.text.templates.base import TEMPLATES, Message, Template
from llmlab.text.tokenizers.base import Fragment, Tokenizer

_PRIVATE = 0xF0000  # characters that nobody types stand for what was typed
_TRIALS = ([Message("user", "a")], [Message("user", "a"), Message("assistant", "b")])


@TEMPLATES.register("jinja")
class Jinja(Template):
    """A Jinja template, rendered as transformers does; what is typed is never a special token.

    Parameters
    ----------
    source
        The template.
    tokens
        Special tokens by the names that it knows them by: `bos_token`, `eos_token`.
    date
        The day, as 2026-01-31, that it may ask for.
    """

    many_turns = True  # pyright: ignore[reportAssignmentType]

    def __init__(
        self, source: str, tokens: Mapping[str, str] | None = None, date: str | None = None
    ):
        tokens = tokens or {}
        problems = [] if isinstance(source, str) else [f"source={source!r:.40}: expected text"]
        pairs = tokens.items() if isinstance(tokens, Mapping) else [("", tokens)]
        if not all(isinstance(part, str) and part for pair in pairs for part in pair):
            problems.append(f"tokens={tokens!r:.80}: expected the text of a token for each name")
        try:
            calendar_date.fromisoformat("2000-01-01" if date is None else date)
        except (TypeError, ValueError):
            problems.append(f"date={date!r:.40}: expected a day, as 2026-01-31")
        if problems:
            raise ConfigError(problems)
        self._renderer = Renderer(source, tokens, date)

    def fragments(self, messages: Sequence[Message], reply: bool = False) -> list[Fragment]:
        """Return the chat in fragments, special tokens as text."""
        return [Fragment(text, answer=answer) for text, _, answer in self._parts(messages, reply)]

    def encode_messages(
        self, tokenizer: Tokenizer, messages: Sequence[Message], reply: bool = False
    ) -> tuple[list[int], list[bool]]:
        """Return the ids of a chat, and for each whether the model is to write it."""
        return tokenizer.encode_fragments(self._known(tokenizer.special_ids, messages, reply))

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Return the ids of what ends a turn, as the tokenizer and the template have it."""
        try:
            fragments = self._known(tokenizer.special_ids, _TRIALS[1], False)
        except DataError:
            fragments = []
        ends = [tokenizer.special_id(p.text) for p in fragments if p.special and p.answer]
        return list(dict.fromkeys([*super().stop_ids(tokenizer), *ends[-1:]]))

    def check(self) -> None:
        """Render two short chats, so that what is wrong with the template is known at once."""
        for chat in _TRIALS:
            try:
                self._text(chat, chat[-1].role == "user")
            except DataError:  # it wants a system message, say
                continue

    def _known(
        self, special: Iterable[str], messages: Sequence[Message], reply: bool
    ) -> list[Fragment]:
        """Return the chat in fragments; the template's text alone holds special tokens."""
        names = sorted(special, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        fragments: list[Fragment] = []
        owed = False  # whether the special token after an answer is still to come
        for text, typed, answer in self._parts(messages, reply, pattern):
            at = 0
            for match in () if typed else pattern.finditer(text):
                before = text[at : match.start()]
                owed = owed and not before.strip()
                fragments += [Fragment(before, False, answer or owed)] if before else []
                fragments.append(Fragment(match.group(), True, answer or owed))
                at, owed = match.end(), False
            if text[at:]:
                fragments.append(Fragment(text[at:], False, answer))
                owed = answer or (owed and not text[at:].strip())
        return fragments

    def _parts(
        self, messages: Sequence[Message], reply: bool, special: re.Pattern[str] | None = None
    ) -> list[tuple[str, bool, bool]]:
        """Return text, whether a user typed it, and whether the model is to write it."""
        whole = self._text(messages, reply)
        marks = _unused([whole, *(m.content for m in messages)])
        owners = dict(zip(marks, messages, strict=False))
        marked = [Message(m.role, mark) for mark, m in owners.items()]
        try:
            found = _aligned(whole, self._text(marked, reply), owners)
        except DataError:
            found = None
        return self._searched(messages, reply, special) if found is None else found

    def _searched(
        self, messages: Sequence[Message], reply: bool, special: re.Pattern[str] | None
    ) -> list[tuple[str, bool, bool]]:
        """Return the parts of a chat whose template looks into the contents."""
        marks = _unused([m.content for m in messages])
        hidden: dict[str, str] = {}

        def hide(match: re.Match[str]) -> str:
            mark = next(marks)
            hidden[mark] = match.group()
            return mark

        safe = [
            m if special is None else Message(m.role, special.sub(hide, m.content))
            for m in messages
        ]
        whole = self._text(safe, reply)
        edges = {0, len(whole)}
        answers = []
        for n, message in enumerate(safe):
            if message.role == "assistant":
                begin = _shared(whole, self._text(safe[:n], True))
                end = _shared(whole, self._text(safe[: n + 1], False))
                answers.append((begin, begin + len(whole[begin:end].rstrip())))
                edges |= {*answers[-1]}
        edges |= {at + n for at, mark in enumerate(whole) if mark in hidden for n in (0, 1)}
        order = sorted(edges)
        return [
            (
                hidden.get(whole[begin:end], whole[begin:end]),
                whole[begin:end] in hidden,
                any(a <= begin < b for a, b in answers),
            )
            for begin, end in pairwise(order)
        ]

    def _text(self, messages: Sequence[Message], reply: bool) -> str:
        chat = [{"role": m.role, "content": m.content} for m in messages]
        return self._renderer.render(chat, reply)


def _unused(texts: Sequence[str]) -> Iterator[str]:
    """Yield private characters that aren't in any of the texts."""
    used = set().union(*texts)
    return (chr(code) for code in count(_PRIVATE) if chr(code) not in used)


def _shared(one: str, other: str) -> int:
    """Return how many characters two texts begin alike with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _aligned(
    whole: str, marked: str, owners: Mapping[str, Message]
) -> list[tuple[str, bool, bool]] | None:
    """Return the parts of a chat, found by rendering it with marks instead of contents.

    None if the template does more to contents than strip them.
    """
    parts: list[tuple[str, bool, bool]] = []
    at = 0
    fragments = re.split(f"([{''.join(owners)}])", marked) if owners else [marked]
    for n, fragment in enumerate(fragments):
        if fragment not in owners:
            text = fragment
        else:
            own = owners[fragment].content
            choices = (own, own.strip(), own.rstrip(), own.lstrip())
            text = next((c for c in choices if whole.startswith(c + fragments[n + 1], at)), None)
        if text is None or not whole.startswith(text, at):
            return None
        at += len(text)
        typed = fragment in owners
        if text:
            parts.append((text, typed, typed and owners[fragment].role == "assistant"))
    return parts if at == len(whole) else None
