"""Parts by name, as the layers of a stack: their order, their repeats, and what is left out.

In YAML the order is that of the file, and an entry may say `after: name` or `before: name`.
Once that is resolved, a list `order` beside the entries says it, since not every store keeps the
order of keys.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from llmlab.errors import ConfigError, suggest

ORDER = "order"
PLACES = ("after", "before")
MOST_REPEATS = 1_000
OWN = ("repeat", "each", *PLACES)  # what an entry says besides its type and arguments


def flat(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what mappings in mappings hold, by dotted keys; an empty one counts as a value."""
    if not isinstance(value, Mapping) or not value:
        yield where, value
        return
    for key, item in value.items():
        yield from flat(item, f"{where}.{key}" if where else str(key))


def placed(parts: Any, where: str, kind: str) -> dict[str, Any]:
    """Return the entries in order: without those that are null, without `after` and `before`.

    ConfigError has a line for each name that is unknown and each place that can't be.
    """
    if not isinstance(parts, Mapping):
        raise ConfigError(f"{where}={parts!r}: expected {kind}s by name: {{name: {{type: ...}}}}")
    order = parts.get(ORDER, [])
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
        raise ConfigError(
            f"{where}.{ORDER}: expected a list of names; no {kind} may have this name"
        )
    names = [n for n in dict.fromkeys([*order, *parts]) if n in parts and n != ORDER]
    problems = [line for name in names for line in _entry(name, parts, where, kind)]
    if not problems and all(parts[name] is None for name in names):
        problems = [f"{where}: empty; it needs at least one {kind}"]
    if problems:
        raise ConfigError(problems)
    placed: list[str] = []
    beside: dict[tuple[str, str], list[str]] = {}
    for name in names:
        for place in PLACES:
            if isinstance(parts[name], Mapping) and place in parts[name]:
                beside.setdefault((place, parts[name][place]), []).append(name)

    def put(name: str) -> None:
        for other in beside.get(("before", name), ()):
            put(other)
        placed.append(name)
        for other in beside.get(("after", name), ()):
            put(other)

    moved = {name for group in beside.values() for name in group}
    for name in names:
        if name not in moved:
            put(name)
    if circle := [name for name in names if name not in placed]:
        raise ConfigError(f"{where}: {', '.join(circle)} stand after or before each other only")
    return {name: _without(parts[name]) for name in placed if parts[name] is not None}


def ordered(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return entries that are in order with their list of names, as they are stored."""
    return {ORDER: list(parts), **parts}


def entries(parts: Any, where: str, registry: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield name, key and spec of every part, repeated ones as `name.0`, `name.1`, ..."""
    for name, spec in placed(parts, where, registry.kind).items():
        here = f"{where}.{name}"
        own = as_mapping(spec)
        repeat = own.pop("repeat", None)
        each = numbered(own.pop("each", None), repeat, here, registry)
        if repeat is None:
            yield name, here, own
            continue
        for number in map(str, range(int(repeat))):
            if number in each:
                yield f"{name}.{number}", here, registry.merged(own, each[number])
            else:
                yield f"{name}.{number}", here, own


def numbered(each: Any, repeat: Any, where: str, registry: Any) -> dict[str, Any]:
    """Return `each` with numbers as text, as JSON has them, or say what is wrong with it."""
    if each is None:
        return {}
    numbers = range(repeat if isinstance(repeat, int) else 0)
    fits = isinstance(each, Mapping) and all(isinstance(over, Mapping) for over in each.values())
    if not fits or not {str(key) for key in each} <= set(map(str, numbers)):
        raise ConfigError(
            f"{where}.each={each!r}: expected a mapping from the number of a repeat, 0 to "
            f"{max(numbers, default=0)}, to what differs there"
        )
    found: dict[str, Any] = {}
    for key, over in each.items():  # a file's 0 and a typed 0 are two keys
        found[str(key)] = registry.merged(found.get(str(key), {}), over)
    return found


def walk(parts: Any, registry: Any, where: str) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Yield key, spec and registry of all that stands in a mapping by name, at any depth."""
    for name, spec in placed(parts, where, registry.kind).items():
        yield from _walk(as_mapping(spec), registry, f"{where}.{name}")


def _walk(
    spec: dict[str, Any], registry: Any, where: str
) -> Iterator[tuple[str, dict[str, Any], Any]]:
    yield where, spec, registry
    for number, over in (spec.get("each") or {}).items():
        base = {key: value for key, value in spec.items() if key not in OWN}
        yield from _walk(registry.merged(base, over), registry, f"{where}.each.{number}")
    for key, part in registry.nested(spec.get("type")).items():
        value, here = spec.get(key), f"{where}.{key}"
        if part.by_name and isinstance(value, Mapping):
            yield from walk(value, part.registry, here)
        elif isinstance(value, Mapping | str):
            yield from _walk(as_mapping(value), part.registry, here)


def as_mapping(spec: Any) -> dict[str, Any]:
    """Return a spec that may be a type's name alone as a mapping of its own."""
    return {"type": spec} if isinstance(spec, str) else dict(spec)


def _entry(name: Any, parts: Mapping[str, Any], where: str, kind: str) -> Iterator[str]:
    spec, here = parts[name], f"{where}.{name}"
    known = [str(n) for n, s in parts.items() if n not in (ORDER, name) and not _nameless(s)]
    if not isinstance(name, str) or not name or "." in name:
        yield f"{here}: a name must be a text without dots"
    elif not isinstance(spec, Mapping | str | None):
        yield f"{here}={spec!r}: expected a mapping with 'type', or null for no {kind}"
    elif isinstance(spec, Mapping) and "type" in spec and spec["type"] is None:
        yield f"{here}.type=null: to leave the {kind} out, say {here}=null"
    elif _nameless(spec):
        yield (
            f"{here}: unknown {kind} '{name}'{suggest(name, known)}; there is: "
            f"{', '.join(known) or 'nothing'}; a new one needs a type: {here}.type=..."
        )
    elif isinstance(spec, Mapping):
        repeat = spec.get("repeat")
        if repeat is not None and not _is_count(repeat):
            yield f"{here}.repeat={repeat!r}: must be a whole number from 1 to {MOST_REPEATS:,}"
        given = [place for place in PLACES if place in spec]
        if len(given) == 2:
            yield f"{here}: say after or before, not both"
        for place in given:
            if not isinstance(spec[place], str) or spec[place] not in {*parts} - {ORDER}:
                yield (
                    f"{here}.{place}={spec[place]}: no {kind} of this name"
                    f"{suggest(spec[place], known)}; there is: {', '.join(known)}"
                )


def _is_count(value: Any) -> bool:
    """Tell whether a number of repeats is whole and not beyond all use."""
    return type(value) in (int, float) and 1 <= value <= MOST_REPEATS and value == int(value)


def _nameless(spec: Any) -> bool:
    return isinstance(spec, Mapping) and "type" not in spec


def _without(spec: Any) -> Any:
    """Return an entry without its place."""
    if not isinstance(spec, Mapping):
        return spec
    return {key: value for key, value in spec.items() if key not in PLACES}
