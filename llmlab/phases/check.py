"""Phase `check`: the contract, held to everything that modules of the user's own register."""

from collections.abc import Mapping
from typing import Any

from llmlab.config import Config
from llmlab.config.specs import registries
from llmlab.contract.trial import can_be_tried, trial
from llmlab.errors import ConfigError, suggest
from llmlab.phases import PHASES
from llmlab.registry import Registry


def run(
    config: Config, run: None = None, arguments: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Print what each check says of each thing that was registered.

    `arguments` are what to try things with, by name: `check.arguments.my_scale.factor=2`.
    """
    if not __debug__:
        raise ConfigError("phase=check: python -O leaves its checks out; run it without -O")
    if not config.plugins:
        raise ConfigError("phase=check: nothing to check; name your modules: plugins=my_layers.py")
    found = [
        (registry, name)
        for registry in registries().values()
        for name in registry.names()
        if not str(registry.factory(name).__module__).startswith("llmlab.")
    ]
    phases = [name for name, phase in PHASES.items() if phase.function is not None]
    given = arguments or {}
    _refuse_arguments(given, [name for _, name in found])
    if not found and not phases:
        raise ConfigError(f"plugins={','.join(config.plugins)}: nothing is registered there")
    failed = [told for registry, name in found for told in _checked(registry, name, given)]
    for name in phases:
        print(f"phase {name}\n  not checked: only running it tells", flush=True)
    if failed:
        raise ConfigError(
            f"{len(failed)} check{'s' * (len(failed) > 1)} failed: {'; '.join(failed)}"
        )
    return {"checked": len(found)}


def _refuse_arguments(given: Mapping[str, Any], known: list[str]) -> None:
    problems = []
    for name, own in given.items():
        where = f"check.arguments.{name}"
        if name not in known:
            problems.append(f"{where}: nothing is registered as '{name}'{suggest(name, known)}")
        elif not isinstance(own, Mapping):
            problems.append(f"{where}={own}: expected a mapping of arguments: {where}.KEY=...")
    if problems:
        raise ConfigError(problems)


def _checked(registry: Registry, name: str, given: Mapping[str, Any]) -> list[str]:
    """Print the outcomes of one thing; return which checks it failed."""
    print(f"{registry.kind} {name}", flush=True)
    if not can_be_tried(registry.kind):
        print("  not checked: only a run tells", flush=True)
        return []
    failed = []
    for check, problem in trial(registry, name, given.get(name, {}), f"check.arguments.{name}"):
        print(f"  {check:<16} {problem or 'fine'}", flush=True)
        if problem:
            failed.append(f"{registry.kind} {name}, {check}")
    return failed
