"""The schema of a checkpoint's meta, checked whenever one is read or written.

A seal tells that a file is as it was written, not that llmlab wrote it.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from llmlab.checkpoints.format import Damaged
from llmlab.errors import CheckpointError

#: What going on with a run needs, see docs/checkpoint-format.md.
RESUMED = (
    *("config.model", "config.template", "tokenizer", "stage", "step", "updates", "cursor"),
    *("hashes", "metrics_offset"),
)
_MANY = 2**63
_DEPTH = 64  # of values inside values; a tokenizer's JSON has about ten
_SHOWN = 40

Rule = tuple[str, Callable[[Any], bool]]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MANY


def _is_mapping_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(map(fits, value.values()))


def _is_config(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(value.get(key, {}), Mapping) for key in ("model", "tokenizer"))
        and _is_mapping_of(lambda part: isinstance(part, Mapping) and "type" in part)(
            value.get("data", {})
        )
    )


def _is_cursor(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"epoch", "index"} and _COUNTS[1](value)


def _or_null(rule: Rule) -> Rule:
    return f"{rule[0]}, or null", lambda value: value is None or rule[1](value)


_COUNT: Rule = ("a whole number from 0", _is_count)
_COUNTS: Rule = ("whole numbers from 0", _is_mapping_of(_is_count))
_NUMBER: Rule = ("a number", lambda value: type(value) in (int, float))
_TEXT: Rule = ("text", lambda value: isinstance(value, str))
RULES: dict[str, Rule] = {
    "config": ("a mapping, as are its parts", _is_config),
    "tokenizer": ("a mapping with a type", lambda v: isinstance(v, Mapping) and "type" in v),
    "stage": _TEXT,
    "cursor": ("epoch and index, whole numbers from 0", _is_cursor),
    "hashes": ("a mapping of texts", _is_mapping_of(_TEXT[1])),
    **dict.fromkeys(("step", "updates", "metrics_offset", "tokens", "epoch", "index"), _COUNT),
    **dict.fromkeys(("skipped", "bad", "clipped", "stale", "loss_tokens"), _COUNT),
    **dict.fromkeys(("best_step", "patience", "loss_epoch"), _or_null(_COUNT)),
    "best": _or_null(_NUMBER),
    "loss_sum": _NUMBER,
}


def check(meta: Mapping[str, Any]) -> None:
    """Raise `Damaged` unless everything that `meta` says is of its kind and in its range."""
    _check_values(meta, "", _DEPTH)
    for key, (expected, fits) in RULES.items():
        if key in meta and not fits(meta[key]):
            raise Damaged(f"its meta has {key}={_shown(meta[key])}, expected {expected}")
    step = meta.get("step")
    for key in ("updates", "best_step"):
        if step is not None and (meta.get(key) or 0) > step:
            raise Damaged(f"its meta has {key}={meta[key]}, which is more than step={step}")


def require(meta: Mapping[str, Any], keys: tuple[str, ...], where: object, purpose: str) -> None:
    """Raise a `CheckpointError` that lists the dotted `keys` that `meta` lacks."""
    missing = [key for key in keys if not _has(meta, key)]
    if missing:
        raise CheckpointError(
            f"{where}: its meta lacks {', '.join(missing)}, which {purpose} needs; use another "
            "checkpoint, or one that llmlab wrote"
        )


def _has(meta: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(meta, Mapping) or part not in meta:
            return False
        meta = meta[part]
    return True


def _check_values(value: Any, where: str, depth: int) -> None:
    if isinstance(value, float) and not isfinite(value):
        raise Damaged(f"its meta has {where}={value}, which isn't a number")
    if not isinstance(value, Mapping | list):
        return
    if depth == 0:
        raise Damaged(f"its meta has more than {_DEPTH} values inside each other")
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in items:
        if isinstance(item, float | Mapping | list):
            _check_values(item, f"{where}.{key}" if where else str(key), depth - 1)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
