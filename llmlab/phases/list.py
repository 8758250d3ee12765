"""Phase `list`: everything that configuration files can name."""

from collections.abc import Sequence
from typing import Any

from llmlab.config import Config
from llmlab.config.specs import registries
from llmlab.errors import ConfigError, suggest
from llmlab.phases import PHASES, own_arguments
from llmlab.registry import Registry


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Print the phases, and each registry's entries with arguments and defaults.

    Of `prompt`, words that name a kind (`layers`) or a part of entries (`rope`) narrow it.
    """
    print("\n".join(lines((config.prompt or "").split())), flush=True)
    return {"registered": sum(len(registry.names()) for registry in registries().values())}


def lines(words: Sequence[str] = ()) -> list[str]:
    """Return the whole listing, or the part that `words` name."""
    sections = {
        "phases": {
            name: [
                _row(name, phase.meaning),
                *(f"      {name}.{line}" for line in _arguments(own_arguments(name), name)),
            ]
            for name, phase in PHASES.items()
        }
    }
    for kind, registry in registries().items():
        sections[f"{kind}s"] = {
            name: [
                _row(name, registry.summary(name)),
                *(f"      {line}" for line in _arguments(registry, name)),
            ]
            for name in registry.names()
        }
    known = [*sections, *(name for entries in sections.values() for name in entries)]
    for word in words:
        if not any(word.lower() in name for name in known):
            raise ConfigError(
                f"phase=list {word}: nothing has this name{suggest(word, known)}; kinds: "
                f"{', '.join(sections)}"
            )
    found: list[str] = []
    for kind, entries in sections.items():
        shown = [
            line
            for name, rows in entries.items()
            if not words or any(_names(word.lower(), kind, name) for word in words)
            for line in rows
        ]
        if shown:
            title = kind if kind == "phases" else f"{kind} (type: arguments)"
            found += [*([""] if found else []), title, *shown]
    return found


def _names(word: str, kind: str, name: str) -> bool:
    return word in (kind, kind.removesuffix("s")) or word in name


def _row(name: str, meaning: str) -> str:
    return f"  {name:<24} {meaning}"


def _arguments(registry: Registry, name: str) -> list[str]:
    found = []
    nested = registry.nested(name)
    for key, default in registry.describe(name).items():
        needed = "supplied" if key in registry.supplied else "required"
        part = nested.get(key)
        kind = f"{part.registry.kind}{'s by name' * part.by_name}" if part else ""
        text = f"{key}: {needed if default is ... else _shown(default)}"
        found.append(f"{text} ({kind})" if part else text)
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
