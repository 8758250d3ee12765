"""The keys of parts, for the help: from the files in conf/ and the factories' signatures."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmlab.config.specs import STAGES
from llmlab.phases import PHASES, own_arguments
from llmlab.registry import Registry


def group_keys(conf: Path, group: str) -> list[str]:
    """Return the keys of all files of a group, dotted; a file states all that are typed."""
    found: list[str] = []
    files = sorted((conf / group).glob("*.yaml"), key=lambda path: path.name.replace("_", "~"))
    for path in files:
        # A file such as _chats.yaml is a stage's part of others.
        where = f"{group}.{STAGES[-1]}" if path.name.startswith("_") else group
        found += _keys({k: v for k, v in read_yaml(path).items() if k != "defaults"}, where)
    return [*dict.fromkeys(found)]


def part_keys(registry: Registry, where: str) -> list[str]:
    """Return the arguments of everything that a registry knows, as keys of `where`."""
    found = [f"{where}.{key}" for name in registry.names() for key in _arguments(registry, name)]
    return [*dict.fromkeys(found)]


def named_keys(parts: Mapping[str, Any], where: str, registry: Registry) -> list[str]:
    """Return the arguments of parts by name, as `callbacks.watch.every`."""
    return [
        f"{where}.{name}.{key}"
        for name, spec in parts.items()
        for key in _arguments(registry, str(spec["type"]))
    ]


def phase_keys() -> list[str]:
    """Return the arguments that belong to one phase alone, as `serve.port`."""
    return [f"{name}.{key}" for name in PHASES for key in own_arguments(name).describe(name)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what a file of conf/ holds."""
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _keys(values: Mapping[str, Any], where: str) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{where}.{key}")
        elif key != "type":
            yield f"{where}.{key}"


def _arguments(registry: Registry, name: str) -> list[str]:
    """Return the arguments of an entry that a configuration states."""
    return [key for key in registry.describe(name) if key not in registry.supplied]
