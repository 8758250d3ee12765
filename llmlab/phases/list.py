"""Phase `list`: everything that configuration files can name."""

from typing import Any

from llmlab.config import Config
from llmlab.config.specs import registries
from llmlab.phases import PHASES
from llmlab.registry import Registry


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Print the phases, and each registry's entries with arguments and defaults."""
    print("\n".join(lines()), flush=True)
    return {"registered": sum(len(registry.names()) for registry in registries().values())}


def lines() -> list[str]:
    """Return the listing."""
    found = ["phases"]
    found += [f"  {name:<24} {phase.meaning}" for name, phase in PHASES.items()]
    for kind, registry in registries().items():
        found += ["", f"{kind}s (type: arguments)"]
        for name in registry.names():
            found.append(f"  {name:<24} {registry.summary(name)}")
            found += [f"      {line}" for line in _arguments(registry, name)]
    return found


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
