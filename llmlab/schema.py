"""What a factory's signature says: its arguments, and which of them are specs of their own."""

import collections.abc
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin


class Nested(NamedTuple):
    """An argument that another registry builds."""

    registry: Any  # the registry that its spec belongs to
    by_name: bool = False  # whether it is a mapping of specs by name (`Mapping[str, Layer]`)
    # Whether the factory gets a function that builds it, to call with arguments of its own
    # (`Callable[..., Layer]`).
    deferred: bool = False


@cache
def parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the factory's parameters; annotations written as text are looked up."""
    try:
        return inspect.signature(factory, eval_str=True).parameters
    except Exception:  # a name that only type checkers know
        options: dict[str, Any] = {}
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            options["annotation_format"] = Format.STRING
        found = inspect.signature(factory, **options).parameters
        return {
            k: p.replace(annotation=_looked_up(p.annotation, factory)) for k, p in found.items()
        }


@cache
def nested(factory: Callable[..., Any]) -> Mapping[str, Nested]:
    """Return the arguments whose annotation names what a registry builds.

    A registry is known by the class that it builds, which has it as `registry`, or by
    `Annotated[..., registry]`.
    """
    found = {}
    for key, parameter in parameters(factory).items():
        for part in _alternatives(parameter.annotation):
            if key not in found and (one := _nested(part)):
                found[key] = one
    return found


def takes_null(parameter: inspect.Parameter) -> bool:
    """Tell whether None may be given."""
    return parameter.default is None or type(None) in _alternatives(parameter.annotation)


def _alternatives(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _alternatives(part)
    else:
        yield annotation


def _nested(annotation: Any) -> Nested | None:
    if registry := _registry(annotation):
        return Nested(registry)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not arguments or not isinstance(origin, type):
        return None
    registry = _registry(arguments[-1])
    if registry and issubclass(origin, Mapping):
        return Nested(registry, by_name=True)
    return Nested(registry, deferred=True) if registry and origin is Callable else None


def _registry(annotation: Any) -> Any:
    if isinstance(annotation, type):
        return getattr(annotation, "registry", None)
    return next((m for m in getattr(annotation, "__metadata__", ()) if hasattr(m, "build")), None)


def _looked_up(annotation: Any, factory: Callable[..., Any]) -> Any:
    """Return what a text stands for; Any if that can't be said."""
    if not isinstance(annotation, str):
        return annotation
    function = inspect.unwrap(factory.__init__ if isinstance(factory, type) else factory)
    usual = {**vars(collections.abc), **vars(typing)}
    holder = type("Holder", (), {"__annotations__": {"it": annotation}})
    try:
        names = {**usual, **getattr(function, "__globals__", {})}
        return typing.get_type_hints(holder, names, include_extras=True)["it"]
    except Exception:
        return Any
