"""What runs leave as JSON, read by its schema: anybody may have written it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.regular_file import read_regular

MOST_BYTES = 2**26
_ADVICE = "name the folder of a run, or start a new one"

Fits = Callable[[Any], bool]


def _is(*kinds: type) -> Fits:
    return lambda value: type(value) in kinds


def _list_of(fits: Fits) -> Fits:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _mapping_of(fits: Fits) -> Fits:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


_NONE = type(None)
_TEXT, _TEXTS = _is(str), _list_of(_is(str))
_MAPPING, _MAYBE_MAPPING, _MAYBE_TEXT = _is(dict), _is(dict, _NONE), _is(str, _NONE)

_STARTED: dict[str, Fits] = {
    "overrides": _TEXTS,
    "config_dir": _MAYBE_TEXT,
    "varying": _TEXTS,
    "changed": _mapping_of(_MAYBE_TEXT),
    "question": _MAPPING,
}
RUN: dict[str, Fits] = {
    **_STARTED,
    **dict.fromkeys(("phase", "status", "created", "cwd", "cpu", "platform", "host"), _TEXT),
    **dict.fromkeys(("hydra_overrides", "argv"), _TEXTS),
    **dict.fromkeys(("parent", "origin", "error", "ended"), _MAYBE_TEXT),
    **dict.fromkeys(("git", "results"), _MAYBE_MAPPING),
    **dict.fromkeys(("restarts", "blas"), _list_of(_MAPPING)),
    "versions": _mapping_of(_MAYBE_TEXT),
    "hashes": _MAPPING,
    **dict.fromkeys(("order", "ranks"), _is(int)),
    "seconds": _is(int, float, _NONE),
}
SWEEP = _STARTED
RESULT: dict[str, Fits] = {
    "status": _TEXT,
    "overrides": _mapping_of(_TEXT),
    "task": _TEXTS,
    "error": _MAYBE_TEXT,
    **dict.fromkeys(("seed", "exit_code"), _is(int)),
}
BEST: dict[str, Fits] = {
    "trial": _TEXT,
    "metric": _TEXT,
    "value": _is(int, float),
    "trials": _is(int),
}


def read_stored(path: Path, rules: Mapping[str, Fits], needed: tuple[str, ...]) -> dict[str, Any]:
    """Return what a file holds."""
    try:
        values = json.loads(read_regular(path, MOST_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or 'unreadable'}; {_ADVICE}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged; {_ADVICE}") from error
    wrong = "" if isinstance(values, dict) else ": it is no mapping"
    for key in () if wrong else (*needed, *rules):
        if key not in values and key in needed:
            wrong = f": {key} is missing"
        elif key in values and key in rules and not rules[key](values[key]):
            wrong = f": {key}={json.dumps(values[key])[:40]} can't be"
    if wrong:
        raise CheckpointError(f"{path}: damaged{wrong}; {_ADVICE}")
    return values
