"""Steps from each older format to the next (docs/checkpoint-format.md, "Versions")."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Meta = dict[str, Any]

_ALIASES = ("attention", "feed_forward")  # presets kept a layer under such a name, too


def _cursor_of_its_own(arrays: Arrays, meta: Meta) -> tuple[Arrays, Meta]:
    """Format 1 held the position in the data as two flat numbers."""
    cursor = {key: meta[key] for key in ("epoch", "index")}
    return arrays, {key: meta[key] for key in meta if key not in cursor} | {"cursor": cursor}


def _layers_by_name(arrays: Arrays, meta: Meta) -> tuple[Arrays, Meta]:
    """Format 2 held the layers of a stack as a list, each with its name inside."""
    config = meta.get("config", {})
    if "model" not in config:
        return arrays, meta
    model = {key: value for key, value in config["model"].items() if key not in _ALIASES}
    model["stack"] = _by_name(model["stack"])
    return arrays, {**meta, "config": {**config, "model": model}}


def _by_name(specs: list[Any]) -> dict[str, Any]:
    found = {}
    for spec in specs:
        own = {key: value for key, value in spec.items() if key != "name"}
        found[_name(spec)] = _inside(own)
    return {"order": list(found), **found}


def _inside(spec: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(spec)
    for key, value in spec.items():
        if key == "layers" and isinstance(value, list):
            result[key] = _by_name(value)
        elif isinstance(value, Mapping):
            result[key] = _inside(value)
    return result


def _name(spec: Mapping[str, Any]) -> str:
    return spec.get("name", spec.get("type"))


#: The steps by the format that they begin from; a checkpoint climbs them one by one.
UPGRADES: dict[int, Callable[[Arrays, Meta], tuple[Arrays, Meta]]] = {
    1: _cursor_of_its_own,
    2: _layers_by_name,
}


def key_of_today(key: str, model: Any) -> str:
    """Return what a key of the command line is called since layers have names.

    The key is as `model.stack.2.layers.0.norm.eps` or `model.attention.window`; `model` holds the
    keys of `model` of the run that it was typed for, in whatever form.
    """
    if found := re.match(r"model\.(attention|feed_forward)\b", key):
        return f"model.stack.blocks.layers.{found[1]}.layer{key[found.end() :]}"
    parts = key.split(".")
    node = model
    for index, part in enumerate(parts[1:], 1):
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                return key
            node = node[int(part)]
            parts[index] = _name(node)
        else:
            node = node.get(part) if isinstance(node, Mapping) else None
    return ".".join(parts)
