"""A configuration that continues a checkpoint's."""

from collections.abc import Collection, Mapping
from typing import Any

# A checkpoint decides neither paths nor how much room a machine has: these arguments are always
# the composed ones, even if a file from elsewhere states them.
PATH_KEYS = frozenset({"path", "paths", "file", "files", "corpus", "cache", "cache_gb"})


def without_paths(value: Any) -> Any:
    """Return a copy of `value` without the keys that hold paths, at any depth."""
    if isinstance(value, Mapping):
        return {k: without_paths(v) for k, v in value.items() if k not in PATH_KEYS}
    return [without_paths(item) for item in value] if isinstance(value, list) else value


def stored_config(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration in a checkpoint's meta without paths, which it doesn't decide."""
    return without_paths(meta["config"])


def overlay(composed: Any, stored: Any, typed: Collection[str], where: str = "") -> Any:
    """Return `composed` updated with `stored`, except for paths and what was typed.

    The stored values may lack keys. Typed keys, and all inside them, stay as composed, or deleted.
    """
    if where in typed:
        return composed
    if not isinstance(stored, Mapping) or not isinstance(composed, Mapping):
        return stored
    taken = {
        key: overlay(composed[key], value, typed, _inside(where, key)) if key in composed else value
        for key, value in stored.items()
        if key in composed or _inside(where, key) not in typed  # else it was deleted
    }
    # Below the top, arguments that the stored part doesn't have aren't its own.
    own = {
        key: value
        for key, value in composed.items()
        if key not in taken
        and (
            not where
            or key in PATH_KEYS
            or touched(_inside(where, key), typed)
            or (where == "data" and key not in stored)
        )
    }
    return taken | own


def touched(where: str, typed: Collection[str]) -> bool:
    """Tell whether `where` or something inside it was typed."""
    return any(key == where or key.startswith(f"{where}.") for key in typed)


def _inside(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
