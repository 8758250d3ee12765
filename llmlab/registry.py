"""Named factories that YAML chooses by `type:`; a factory's signature is its schema."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from llmlab import schema
from llmlab.errors import ConfigError, LlmlabError, collected, suggest
from llmlab.named import OWN, as_mapping, entries
from llmlab.plugin_errors import located
from llmlab.schema import Nested

F = TypeVar("F", bound=Callable[..., Any])
Spec = Mapping[str, Any] | str


class Registry:
    """Build objects from `{"type": name, **arguments}`.

    Only registered factories can be named, and only arguments of their signature are
    taken, so a configuration file can run no code of its own. Arguments whose annotation
    names what a registry builds are specs themselves (`schema.nested`).

    Parameters
    ----------
    kind
        What the entries are, for messages: "layer", "optimizer", ...
    supplied
        Names of arguments that whoever builds supplies if the spec doesn't give them.
    """

    def __init__(self, kind: str, supplied: Iterable[str] = ()):
        self.kind, self.supplied = kind, tuple(supplied)
        self._factories: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Return a decorator that makes a class or function known under `name`."""

        def decorate(factory: F) -> F:
            known = self._factories.get(name)
            if known is not None and _origin(known) != _origin(factory):
                raise ValueError(f"{self.kind} '{name}' is registered twice: {_origin(known)}")
            self._factories[name] = factory
            return factory

        return decorate

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self._factories)

    def describe(self, name: str) -> dict[str, Any]:
        """Return the arguments of `name` with their defaults; required ones map to `...`."""
        empty = inspect.Parameter.empty
        known = {key: parameter.default for key, parameter in self.signature(name).items()}
        for key, part in self.nested(name).items():
            own = part.registry._factories
            known[key] = next((n for n, f in own.items() if f is known[key]), known[key])
        return {key: ... if default is empty else default for key, default in known.items()}

    def summary(self, name: str) -> str:
        """Return the first line of the factory's docstring."""
        return (inspect.getdoc(self._factories[name]) or "").split("\n")[0]

    def check(self, spec: Spec, where: str, offered: Iterable[str] | None = None) -> list[str]:
        """Return everything that is wrong with `spec`, as lines that name `where`, its key.

        `offered` are names of arguments that will be there if the spec doesn't give them; by
        default those that the registry's are supplied with.
        """
        if not isinstance(spec, str | Mapping):
            return [f"{where}={spec!r}: expected a {self.kind} as a mapping with 'type'"]
        name = spec if isinstance(spec, str) else spec.get("type")
        if name is None:
            return [f"{where}: no 'type'; known {self.kind}s: {', '.join(self.names())}"]
        if self.factory(name) is None:
            return [
                f"{where}: unknown {self.kind} '{name}'{suggest(name, self._factories)}; "
                f"known: {', '.join(self.names())}; one of your own needs plugins=FILE.py"
            ]
        offered = self.supplied if offered is None else tuple(offered)
        given = {} if isinstance(spec, str) else {k: v for k, v in spec.items() if k != "type"}
        signature = self.signature(name)
        problems = [
            f"{where}.{key}: unknown argument of {self.kind} '{name}'{suggest(key, signature)}; "
            f"it takes: {', '.join(signature) or 'nothing'}{self._takers(key)}"
            for key in given
            if key not in signature
        ]
        supplied = {*given, *offered}
        problems += [
            f"{where}.{key}: missing, {self.kind} '{name}' needs it"
            for key, parameter in signature.items()
            if parameter.default is inspect.Parameter.empty and key not in supplied
        ]
        for key, part in self.nested(name).items():
            if key in given and not (given[key] is None and schema.takes_null(signature[key])):
                problems += self._check_part(part, given[key], f"{where}.{key}", offered)
        return problems

    def build(self, spec: Spec, where: str, **context: Any) -> Any:
        """Build what `spec` describes.

        Values of `context` reach the factory, and those of the specs inside, when the signature
        names them and the spec does not give them. Raises `ConfigError` with every problem of
        the spec at once.
        """
        problems = self.check(spec, where, context)
        if problems:
            raise ConfigError(problems)
        name = spec if isinstance(spec, str) else spec["type"]
        arguments = {} if isinstance(spec, str) else {k: v for k, v in spec.items() if k != "type"}
        for key, part in self.nested(name).items():
            if isinstance(arguments.get(key), Mapping | str):
                with collected(problems):
                    arguments[key] = self._built(part, arguments[key], f"{where}.{key}", context)
        if problems:
            raise ConfigError(problems)
        for key in self.signature(name):
            if key in context and key not in arguments:
                arguments[key] = context[key]
        try:
            with located(owner=where):
                return self._factories[name](**arguments)
        except ConfigError as error:
            own = self.signature(name)
            raise ConfigError([_within(where, own, text) for text in error.problems]) from error
        except LlmlabError as error:
            if error.option.partition("=")[0] in self.signature(name):
                error.option = f"{where}.{error.option}"
            raise

    def build_named(self, parts: Any, where: str, **context: Any) -> dict[str, Any]:
        """Build the parts of a mapping by name (see `llmlab.named`), in their order."""
        problems: list[str] = []
        built: dict[str, Any] = {}
        for name, here, spec in entries(parts, where, self):
            with collected(problems):
                built[name] = self.build(spec, here, **context)
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        return built

    def merged(self, spec: Spec, over: Mapping[str, Any]) -> dict[str, Any]:
        """Return `spec` with what `over` says; a new type keeps the arguments that it takes."""
        result = as_mapping(spec)
        name = over.get("type", result.get("type"))
        if name != result.get("type") and self.factory(name):
            known = {"type", *OWN, *self.signature(name)}
            result = {key: value for key, value in result.items() if key in known}
        nested = self.nested(name)
        for key, value in over.items():
            before, part = result.get(key), nested.get(key)
            if part and part.by_name and isinstance(value, Mapping) and isinstance(before, Mapping):
                result[key] = {**before, **value}
                for inner, item in value.items():
                    if isinstance(item, Mapping) and before.get(inner) is not None:
                        result[key][inner] = part.registry.merged(before[inner], item)
            elif isinstance(value, Mapping) and isinstance(before, Mapping | str):
                result[key] = (part.registry if part else self).merged(before, value)
            else:
                result[key] = value
        return result

    def nested(self, name: Any) -> Mapping[str, Nested]:
        """Return the arguments of the factory that are specs themselves."""
        factory = self.factory(name)
        return {} if factory is None else schema.nested(factory)

    def factory(self, name: Any) -> Callable[..., Any] | None:
        """Return what is registered under `name`, None if nothing is."""
        return self._factories.get(name) if isinstance(name, str) else None

    def leaves_to_factory(self, part: Nested) -> bool:
        """Tell whether only the factory itself knows what a part is to be supplied with."""
        return part.deferred or not {*part.registry.supplied} <= {*self.supplied}

    def _check_part(
        self, part: Nested, value: Any, where: str, offered: Iterable[str]
    ) -> list[str]:
        registry, kind = part.registry, part.registry.kind
        if part.by_name:
            if isinstance(value, Mapping) and _objects(value):
                return []
            problems: list[str] = []
            with collected(problems):
                for _, here, spec in entries(value, where, registry):
                    problems += registry.check(spec, here, offered)
            return list(dict.fromkeys(problems))
        if isinstance(value, Mapping | str):
            if self.leaves_to_factory(part):
                offered = (*offered, *registry.supplied)
            if part.deferred:
                name = as_mapping(value).get("type")
                offered = registry.signature(name) if name in registry.names() else ()
            return registry.check(value, where, offered)
        if value is None or isinstance(value, int | float | list):
            found = "null" if value is None else repr(value)
            return [f"{where}={found}: expected a {kind}'s name, or its mapping"]
        return []

    def _built(self, part: Nested, value: Any, where: str, context: Mapping[str, Any]) -> Any:
        if part.by_name:
            return value if _objects(value) else part.registry.build_named(value, where, **context)
        if part.deferred:
            return lambda **own: part.registry.build(value, where, **{**context, **own})
        if self.leaves_to_factory(part):
            return value
        return part.registry.build(value, where, **context)

    def _takers(self, key: str) -> str:
        """Say which others take an argument, for a message."""
        takers = [name for name in self.names() if key in self.signature(name)]
        return f"; {key} goes with: {', '.join(takers)}" if takers else ""

    def signature(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the parameters of the factory, which are what its spec may say."""
        return dict(schema.parameters(self._factories[name]))


def _objects(parts: Mapping[str, Any]) -> bool:
    """Tell whether the parts of a mapping are built already."""
    return bool(parts) and not any(
        isinstance(p, Mapping | str | list | None) for p in parts.values()
    )


def _within(where: str, own: Mapping[str, inspect.Parameter], problem: str) -> str:
    """Return the problem with the whole key of the argument that it begins with, if it does."""
    if problem.startswith(where) and where:
        return problem  # of a part that the factory built
    key = re.match(r"(\w+)[\w.\[\]-]*=", problem)
    return f"{where}.{problem}" if key and key[1] in own else f"{where}: {problem}"


def _origin(factory: Callable[..., Any]) -> str:
    return f"{factory.__module__}.{factory.__qualname__}"


def load_package(name: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that one new file is enough to register."""
    for module in sorted(info.name for info in pkgutil.iter_modules(path)):
        importlib.import_module(f"{name}.{module}")
