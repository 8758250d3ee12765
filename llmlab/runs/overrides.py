"""Overrides of the command line, compared as values: 1e-3, 0.001 and 1.0e-3 are equal."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from llmlab.config.study import STUDY_KEYS

_KEY = re.compile(r"(?P<prefix>\+\+|\+|~|)(?P<key>[^=\s~+][^=\s]*)(=(?P<value>.*))?", re.DOTALL)
_QUOTED = re.compile(r"'(.*)'|\"(.*)\"", re.DOTALL)
_COLON = re.compile(r"([{,]\s*[\w.-]+):(?=\S)")  # Hydra writes mappings without a space
_WORDS = {"true": True, "false": False, "null": None}
# These make no other experiment: which machine did the work, which run goes on, the question.
_ELSEWHERE = ("resume", "launcher", *STUDY_KEYS)


@dataclass(frozen=True)
class Override:
    """One `key=value` of the command line; `value` is None for `~key`."""

    prefix: str
    key: str
    value: str | None

    @classmethod
    def of(cls, token: str) -> "Override":
        """Take a token apart."""
        match = _KEY.fullmatch(token)
        return cls(match["prefix"], match["key"], match["value"]) if match else cls("", token, None)

    def __str__(self) -> str:
        """Return the token."""
        return f"{self.prefix}{self.key}" + ("" if self.value is None else f"={self.value}")

    @property
    def name(self) -> str:
        """Return the key without its package (`model@x` is `model`)."""
        return self.key.split("@")[0]


def is_key(token: str) -> bool:
    """Tell whether a token looks like `key` or `key=value`."""
    return _KEY.fullmatch(token) is not None


def value_of(text: str) -> Any:
    """Return what an override's text stands for: a number, true, null, a list, or text."""
    text = text.strip()
    if quoted := _QUOTED.fullmatch(text):
        return _unescaped(quoted[1] if quoted[1] is not None else quoted[2])
    if text[:1] in "[{" and text[-1:] in "]}":
        try:
            return _plain(yaml.safe_load(_COLON.sub(r"\1: ", text)))
        except yaml.YAMLError:
            return text
    return _scalar(text)


def identity(
    tokens: Iterable[str], former: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """Return what identifies a job: each key with its value in a canonical form, sorted.

    Of a key that is there twice, the last counts; `former` tokens count in place of those of the
    same key, and with None the key doesn't count.
    """
    former = former or {}
    named = {Override.of(text).name: text for text in tokens}
    counted = {name: former.get(name, text) for name, text in named.items()}
    found: dict[str, str] = {}
    for name, text in counted.items():
        if text is not None and name.split(".")[0] not in (*_ELSEWHERE, "hydra"):
            value = Override.of(text).value
            found[name] = "~" if value is None else json.dumps(value_of(value), sort_keys=True)
    return dict(sorted(found.items()))


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a line for each key in which two identities differ."""
    return [
        f"{key} was {then.get(key, 'not given')}, is {now.get(key, 'not given')}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]


def _scalar(text: str) -> Any:
    """Return a word of Hydra's grammar as a value; a whole float is the integer."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number


def _plain(value: Any) -> Any:
    """Return lists and mappings with their words read as Hydra reads them."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None else _scalar(str(value))


def _unescaped(text: str) -> str:
    """Undo the escaping of quotes and of the backslashes before them."""
    return re.sub(r"(\\+)(?=['\"]|\$\{|$)", lambda found: found[1][: len(found[1]) // 2], text)
