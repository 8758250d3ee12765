"""Named factories that YAML chooses by `type:`; a factory's signature is its schema."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from llmlab.errors import ConfigError, LlmlabError, suggest

F = TypeVar("F", bound=Callable[..., Any])
Spec = Mapping[str, Any] | str


class Registry:
    """Build objects from `{"type": name, **arguments}`.

    Only registered factories can be named, and only arguments of their signature are
    taken, so a configuration file can run no code of its own.

    Parameters
    ----------
    kind
        What the entries are, for messages: "layer", "optimizer", ...
    """

    def __init__(self, kind: str):
        self.kind = kind
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
        return {
            key: ... if parameter.default is empty else parameter.default
            for key, parameter in self.signature(name).items()
        }

    def summary(self, name: str) -> str:
        """Return the first line of the factory's docstring."""
        return (inspect.getdoc(self._factories[name]) or "").split("\n")[0]

    def check(self, spec: Spec, where: str, offered: Iterable[str] = ()) -> list[str]:
        """Return everything that is wrong with `spec`, as lines that name `where`.

        Parameters
        ----------
        spec
            The type's name, or a mapping with `type` and arguments.
        where
            The configuration key that holds it.
        offered
            Names of arguments that the builder will supply if the spec does not.
        """
        if not isinstance(spec, str | Mapping):
            return [f"{where}={spec!r}: expected a {self.kind} as a mapping with 'type'"]
        name = spec if isinstance(spec, str) else spec.get("type")
        if name is None:
            return [f"{where}: no 'type'; known {self.kind}s: {', '.join(self.names())}"]
        if not isinstance(name, str) or name not in self._factories:
            return [
                f"{where}: unknown {self.kind} '{name}'{suggest(name, self._factories)}; "
                f"known: {', '.join(self.names())}; one of your own needs plugins=FILE.py"
            ]
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
        return problems

    def build(self, spec: Spec, where: str, **context: Any) -> Any:
        """Build what `spec` describes.

        Values of `context` reach the factory when its signature names them and the spec
        does not give them. Raises `ConfigError` with every problem of the spec at once.
        """
        problems = self.check(spec, where, context)
        if problems:
            raise ConfigError(problems)
        name = spec if isinstance(spec, str) else spec["type"]
        arguments = {} if isinstance(spec, str) else {k: v for k, v in spec.items() if k != "type"}
        for key in self.signature(name):
            if key in context and key not in arguments:
                arguments[key] = context[key]
        try:
            return self._factories[name](**arguments)
        except ConfigError as error:
            own = self.signature(name)
            raise ConfigError([_within(where, own, text) for text in error.problems]) from error
        except LlmlabError as error:
            if error.option.partition("=")[0] in self.signature(name):
                error.option = f"{where}.{error.option}"
            raise

    def _takers(self, key: str) -> str:
        """Say which others take an argument, for a message."""
        takers = [name for name in self.names() if key in self.signature(name)]
        return f"; {key} goes with: {', '.join(takers)}" if takers else ""

    def signature(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the parameters of the factory, which are what its spec may say."""
        return dict(_parameters(self._factories[name]))


@cache
def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(factory).parameters


def _within(where: str, own: Mapping[str, inspect.Parameter], problem: str) -> str:
    """Return the problem with the whole key of the argument that it begins with, if it does."""
    key = re.match(r"(\w+)[\w.\[\]-]*=", problem)
    return f"{where}.{problem}" if key and key[1] in own else f"{where}: {problem}"


def _origin(factory: Callable[..., Any]) -> str:
    return f"{factory.__module__}.{factory.__qualname__}"


def load_package(name: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that one new file is enough to register."""
    for module in sorted(info.name for info in pkgutil.iter_modules(path)):
        importlib.import_module(f"{name}.{module}")
