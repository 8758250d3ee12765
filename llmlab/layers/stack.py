"""Layers one after the other, and how a mapping of specs becomes one."""

from collections.abc import Iterator, Mapping
from typing import Any

from llmlab.errors import ConfigError
from llmlab.layers.base import LAYERS, Layer
from llmlab.named import MOST_REPEATS, walk

_MOST_PARTS = 20_000  # mappings in a stack that is written out, norms and the like counted


class Stack(Layer):
    """Apply named layers in order.

    Their names become the first part of the parameters' names.
    """

    def __init__(self, layers: Mapping[str, Layer]):
        self.layers = dict(layers)
        self._order = list(self.layers.items())
        self._reverse = self._order[::-1]

    def children(self):
        """Return the layers."""
        return self.layers

    def leaves(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield dotted path and layer in the order of their application, stacks opened."""
        for name, layer in self._order:
            full = f"{path}.{name}" if path else name
            if isinstance(layer, Stack):
                yield from layer.leaves(full)
            else:
                yield full, layer

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


def build_stack(specs: Mapping[str, Any], where: str = "model.stack", **context: Any) -> Stack:
    """Build the stack that a mapping of layers by name describes.

    Parameters
    ----------
    specs
        By name a layer's `{type, …}`, in order (`llmlab.named`). `repeat: 3` makes `name.0` to
        `name.2`, `each: {0: {…}}` changes one of them; null is no layer. Arguments that are
        themselves layers, initialisations, ... are mappings with a `type`.
    where
        The configuration key, for messages.
    context
        Values that a layer gets when its signature names them and its spec doesn't give
        them: vocab_size, embedding_dim, max_seq_len, num_blocks.

    Raises
    ------
    ConfigError
        With every problem of the whole mapping.
    """
    if _parts(specs) > _MOST_PARTS:
        raise ConfigError(
            f"{where}: repeats inside repeats make more than {_MOST_PARTS:,} parts; lower a repeat"
        )
    stack = Stack(LAYERS.build_named(specs, where, **context))
    whole = context.get("max_seq_len", 0)
    problems = [
        f"{here}.max_seq_len={own}: less than the model's, {whole}; leave it out to have that"
        for here, spec, _ in walk(specs, LAYERS, where)
        if isinstance(own := spec.get("max_seq_len"), int) and own < whole
    ]
    if problems:
        raise ConfigError(problems)
    return stack


def _parts(spec: Any) -> int:
    """Count the mappings that a spec would be if its repeats were written out."""
    if not isinstance(spec, Mapping):
        return 0
    repeat = spec.get("repeat")
    known = type(repeat) is int and 0 < repeat <= MOST_REPEATS  # else it is refused later
    return (repeat if known else 1) * (1 + sum(map(_parts, spec.values())))  # pyright: ignore[reportOptionalOperand]


@LAYERS.register("block")
def block(layers: Mapping[str, Layer]) -> Stack:
    """Group layers, so that they can be repeated together: a transformer block."""
    return Stack(layers)
