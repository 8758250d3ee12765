"""Layers one after the other, and how a YAML list becomes one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmlab.errors import ConfigError
from llmlab.layers.base import LAYERS, Layer

Spec = Mapping[str, Any]
MOST_REPEATS = 1_000
_MOST_PARTS = 20_000  # mappings in a stack that is written out, norms and the like counted
INNER = ("layer", "norm", "output_norm", "layers")  # arguments that are layers themselves


class Stack(Layer):
    """Apply named layers in order.

    Parameters
    ----------
    layers
        The layers by name; names become the first part of the parameters' names.
    """

    def __init__(self, layers: Mapping[str, Layer]):
        self.layers = dict(layers)
        self._order = list(self.layers.items())
        self._reverse = self._order[::-1]

    def children(self):
        """Return the layers."""
        return self.layers

    def forward(self, p, x, ctx):
        """Return the last layer's output; the cache is the list of theirs."""
        caches = []
        for name, layer in self._order:
            x, cache = layer.forward(p[name], x, ctx)
            caches.append(cache)
        return x, caches

    def backward(self, p, g, dy, cache, ctx):
        """Return the gradient of the first layer's input."""
        for (name, layer), kept in zip(self._reverse, reversed(cache), strict=True):
            dy = layer.backward(p[name], g[name], dy, kept, ctx)
        return dy


def build_stack(specs: Sequence[Spec], where: str = "model.stack", **context: Any) -> Stack:
    """Build the stack that a list of `{name, type, repeat, …}` describes.

    Parameters
    ----------
    specs
        One mapping a layer. `name` defaults to the type; `repeat: 3` makes `name.0` to
        `name.2`. Arguments that are themselves layers (`layer`, `norm`, or a list `layers`)
        are mappings with a `type`.
    where
        The configuration key, for messages.
    context
        Values that a layer gets when its signature names them and the YAML doesn't give
        them: vocab_size, embedding_dim, max_seq_len, num_blocks.

    Raises
    ------
    ConfigError
        With every problem of the whole list.
    """
    problems: list[str] = []
    layers: dict[str, Layer] = {}
    if not specs:
        raise ConfigError(f"{where}: empty; a stack needs at least one layer")
    if _parts(specs) > _MOST_PARTS:
        raise ConfigError(
            f"{where}: repeats inside repeats make more than {_MOST_PARTS:,} parts; lower a repeat"
        )
    for index, spec in enumerate(specs):
        here = f"{where}[{index}]"
        try:
            named = list(_entries(spec, here))
            for name, arguments in named:
                if name in layers:
                    raise ConfigError(f"{here}.name={name!r}: used twice; names must differ")
                layers[name] = _build(arguments, here, context)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Stack(layers)


def _parts(spec: Any) -> int:
    """Count the mappings that a spec would be if its repeats were written out."""
    if isinstance(spec, Mapping):
        repeat = spec.get("repeat")
        known = type(repeat) is int and 0 < repeat <= MOST_REPEATS  # else it is refused later
        return (repeat if known else 1) * (1 + sum(map(_parts, spec.values())))
    return sum(map(_parts, spec)) if isinstance(spec, list) else 0


def _entries(spec: Any, where: str) -> Iterator[tuple[str, Spec]]:
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{where}={spec!r}: expected a mapping with 'type'")
    arguments = {k: v for k, v in spec.items() if k not in ("name", "repeat")}
    name = spec.get("name", spec.get("type"))
    repeat = spec.get("repeat")
    if not isinstance(name, str) or not name or "." in name:
        raise ConfigError(f"{where}.name={name!r}: must be a word without dots")
    if repeat is None:
        yield name, arguments
        return
    if type(repeat) is not int or not 1 <= repeat <= MOST_REPEATS:
        raise ConfigError(
            f"{where}.repeat={repeat!r}: must be a whole number from 1 to {MOST_REPEATS:,}"
        )
    for number in range(repeat):
        yield f"{name}.{number}", arguments


def _build(spec: Spec, where: str, context: Mapping[str, Any]) -> Layer:
    """Build one layer, its inner layers first."""
    problems: list[str] = []
    arguments = dict(spec)
    for key in INNER:
        if key not in spec:
            continue
        inner, here = spec[key], f"{where}.{key}"
        try:
            if key == "layers" and isinstance(inner, Sequence) and not isinstance(inner, str):
                arguments[key] = build_stack(inner, here, **context).layers
            elif key == "layers":
                problems.append(f"{here}={inner!r}: expected a list of layers")
            elif isinstance(inner, Mapping | str):
                inner = {"type": inner} if isinstance(inner, str) else inner
                arguments[key] = _build(inner, here, context)
            elif not isinstance(inner, Layer) and not (inner is None and _may_be_null(spec, key)):
                found = "null" if inner is None else repr(inner)
                problems.append(f"{here}={found}: expected a layer's name, or its mapping")
        except ConfigError as error:
            problems += error.problems
    problems += LAYERS.check(arguments, where, context)
    own, whole = arguments.get("max_seq_len"), context.get("max_seq_len")
    if isinstance(own, int) and isinstance(whole, int) and own < whole:
        problems.append(
            f"{where}.max_seq_len={own}: less than the model's, {whole}; leave it out to have that"
        )
    if problems:
        raise ConfigError(problems)
    return LAYERS.build(arguments, where, **context)


def _may_be_null(spec: Spec, key: str) -> bool:
    name = spec.get("type")
    if not isinstance(name, str) or name not in LAYERS.names():
        return True  # that is what is wrong
    parameter = LAYERS.signature(name).get(key)
    return parameter is None or parameter.default is None


@LAYERS.register("block")
def block(layers: Mapping[str, Layer]) -> Stack:
    """Group layers, so that they can be repeated together: a transformer block."""
    return Stack(layers)
