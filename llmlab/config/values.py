"""From YAML's values to the types and ranges that dataclass fields declare."""

import math
import operator
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from llmlab.errors import suggest

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_CONTAINERS = {list: "a list", dict: "a mapping", type(None): "null"}


@dataclass(frozen=True)
class Key:
    """What a schema says about a key besides its type."""

    meaning: str  # one line for the help
    group: bool = False  # whether it is chosen among files of conf/
    kept: bool = False  # whether it affects the numbers; a checkpoint keeps such keys
    # The range of numbers: low ≤ x ≤ high, above < x < below
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()  # the texts that are allowed
    optional: bool = False  # whether a file may leave it out; then there is no such key


def keys_of(schema: type) -> dict[str, tuple[Any, Key]]:
    """Return the type and the `Key` of each field that is annotated with one."""
    hints = get_type_hints(schema, include_extras=True)
    parts = {name: get_args(hint) for name, hint in hints.items()}
    return {
        name: (found[0], found[1])
        for name, found in parts.items()
        if len(found) == 2 and isinstance(found[1], Key)
    }


class Unfit(ValueError):
    """A value doesn't fit the type of its key; the text says what is expected."""


def plain(node: Any, problems: list[str], literal: Collection[str] = (), where: str = "") -> Any:
    """Return `node` as dicts, lists and scalars, with interpolations resolved.

    Parameters
    ----------
    node
        A DictConfig, a ListConfig, or plain values.
    problems
        Gets a line for each value that is missing or whose interpolation leads nowhere.
    literal
        Top-level keys whose text is taken literally: there, `???` doesn't mean "missing".
    where
        The key of `node`.
    """
    if isinstance(node, Mapping) and not isinstance(node, DictConfig):
        node = OmegaConf.create(dict(node))
    if isinstance(node, DictConfig):
        keys: list[Any] = list(node.keys())
    elif isinstance(node, ListConfig):
        keys = list(range(len(node)))
    else:
        return node
    found: dict[Any, Any] = {}
    for key in keys:
        name = f"{where}.{key}" if where else str(key)
        try:
            found[key] = plain(node[key], problems, (), name)
        except MissingMandatoryValue:
            if key in literal:
                found[key] = "???"
            else:
                problems.append(f"{name}: missing; give it a value: {name}=...")
        except OmegaConfBaseException as error:
            reason = str(error).split("\n")[0].rstrip(".")
            problems.append(f"{name}: {reason}; write a value, or the key of one that exists")
    return list(found.values()) if isinstance(node, ListConfig) else found


def check_fields(schema: type, values: Any, where: str, problems: list[str]) -> dict[str, Any]:
    """Return `values` converted to the types of `schema`'s fields, in their order.

    Adds a line to `problems` for each key that is unknown, missing, of another type or out of
    its range; such keys keep the value that they have, or become None.
    """
    if not isinstance(values, Mapping):
        problems.append(f"{where}={values!r}: expected a mapping")
        values = {}
    known = keys_of(schema)
    prefix = f"{where}." if where else ""
    reported = {problem.split(":")[0].split("=")[0] for problem in problems}
    problems += [
        f"{prefix}{key}={shown(values[key])}: unknown key{suggest(key, known)}"
        for key in values
        if key not in known
    ]
    result: dict[str, Any] = {}
    for name, (hint, key) in known.items():
        where = f"{prefix}{name}"
        if key.optional and name not in values:
            continue
        result[name] = values.get(name)
        if name not in values:
            if where not in reported:
                problems.append(f"{where}: missing; give it a value: {where}=...")
            continue
        try:
            result[name] = convert(values[name], hint)
            _check_range(result[name], key)
        except Unfit as error:
            problems.append(f"{where}={shown(values[name])}: {error}")
    return result


def convert(value: Any, hint: Any) -> Any:
    """Return `value` as the type `hint` wants it, or raise `Unfit`.

    Whole floats (1e3) pass as integers; true and false pass as neither number. Hints that
    aren't made of scalars, lists and dicts accept everything.
    """
    kinds = _kinds(hint)
    bases = [get_origin(kind) or kind for kind in kinds]
    if not all(base in _NAMES or base in _CONTAINERS for base in bases):
        return value
    for kind, base in zip(kinds, bases, strict=True):
        if base in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
            if base is int and isinstance(value, int):
                return value
            if base is int and float(value).is_integer():
                return int(value)
            if base is float:
                return _finite(value)
        elif base is list and isinstance(value, Sequence) and not isinstance(value, str):
            inner = get_args(kind)
            return [convert(item, inner[0]) for item in value] if inner else list(value)
        elif base in (bool, str, dict, type(None)) and isinstance(value, base):
            return value
    if isinstance(value, float) and not math.isfinite(value):
        _finite(value)
    hint_text = ""
    if int in bases and isinstance(value, float):
        hint_text = f"; nearest: {math.floor(value)} or {math.ceil(value)}"
    names = {**_NAMES, **_CONTAINERS}
    raise Unfit(f"expected {' or '.join(names[base] for base in bases)}{hint_text}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, types.UnionType):
        return get_args(hint)
    return (type(None),) if hint is None else (hint,)


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unfit("must be finite")
    return number


def _check_range(value: Any, key: Key) -> None:
    if isinstance(value, str) and key.choices and value not in key.choices:
        number = "a whole number or " if key.low is not None else ""
        several = len(key.choices) > 2
        allowed = f"one of: {', '.join(key.choices)}" if several else " or ".join(key.choices)
        raise Unfit(f"must be {number}{allowed}{suggest(value, key.choices)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    bounds = (
        ("at least", key.low, operator.ge),
        ("more than", key.above, operator.gt),
        ("at most", key.high, operator.le),
        ("less than", key.below, operator.lt),
    )
    if not all(bound is None or fits(value, bound) for _, bound, fits in bounds):
        words = [f"{word} {bound:,}" for word, bound, _ in bounds if bound is not None]
        raise Unfit(f"must be {' and '.join(words)}")


def shown(value: Any) -> str:
    """Return a value as YAML writes it, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
