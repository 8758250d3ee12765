"""One flat buffer for each kind of thing: parameters, gradients, moments.

A `Layout` walks a layer stack and gives every learned array a dotted name and a slice. An
`Arena` is one aligned vector of that layout with a named view per array, so that clipping,
Adam or a checkpoint work on a vector and know no layer.
"""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from llmlab.streams import stream

ALIGN = 64  # bytes: one cache line, one AVX-512 register
GROUPS = ("matrix", "decayed", "undecayed", "frozen")

Init = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Param:
    """Declare a learned array.

    Parameters
    ----------
    shape
        Its shape; matrices are (d_in, d_out).
    init
        Function of a generator and the shape that returns the first values.
    group
        "matrix" (the hidden layers' products), "decayed" (other arrays that weight decay
        shrinks: embeddings, the head), "undecayed" (norms, biases) or "frozen" (never
        changed: without gradient, moments and decay).
    alias
        Dotted name of another parameter that this one shares its storage with.
    """

    shape: tuple[int, ...]
    init: Init
    group: str = "matrix"
    alias: str | None = None


class Layout:
    """Names, shapes and slices of a stack's parameters in one vector.

    Slices are ordered by group, so that each group is one range of the vector; names, not
    offsets, are what a checkpoint stores.
    """

    def __init__(self, stack: Any):
        walked = list(walk_params(stack))
        names = [name for name, _, _ in walked]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two parameters of one name: {', '.join(sorted(twice))}")
        self._paths = {name: path for name, path, _ in walked}
        self._nodes = list(_nodes(stack, ()))
        declared = {name: param for name, _, param in walked}
        own = {name: param for name, param in declared.items() if param.alias is None}
        self.aliases = {n: p.alias for n, p in declared.items() if p.alias is not None}
        for name, target in self.aliases.items():
            if target not in own or own[target].shape != declared[name].shape:
                raise ValueError(f"{name} shares '{target}', which is missing or of another shape")
        self.params = dict(sorted(own.items(), key=lambda item: GROUPS.index(item[1].group)))
        self.shapes = {name: param.shape for name, param in self.params.items()}
        self.num_parameters = sum(prod(shape) for shape in self.shapes.values())
        self.slices: dict[str, slice] = {}
        self.ranges: dict[str, slice] = {}
        step = ALIGN // 4
        offset = 0
        for group in GROUPS:
            start = offset
            for name, param in self.params.items():
                if param.group == group:
                    self.slices[name] = slice(offset, offset + prod(param.shape))
                    offset += -(-prod(param.shape) // step) * step
            self.ranges[group] = slice(start, offset)
        self.size = offset

    def zeros(self, dtype: np.typing.DTypeLike = np.float32, buffer: Any = None) -> "Arena":
        """Return an arena of zeros, in `buffer` (at least `size` items) if given."""
        flat = aligned(self.size, dtype) if buffer is None else buffer[: self.size]
        flat.fill(0)
        return Arena(self, flat)

    def gradients(self, dtype: np.typing.DTypeLike = np.float32, buffer: Any = None) -> "Arena":
        """Return an arena of zeros for the gradients of what is trained.

        Frozen arrays have a place in its tree, so that no layer need know of them: it is one
        piece of memory for all, which nobody reads.
        """
        frozen = {n: shape for n, shape in self.shapes.items() if n not in self.trained.shapes}
        waste = np.zeros(max(map(prod, frozen.values()), default=0), dtype)
        unwanted = {n: waste[: prod(shape)].reshape(shape) for n, shape in frozen.items()}
        unwanted |= {n: unwanted[t] for n, t in self.aliases.items() if t in frozen}
        return Arena(self.trained, self.trained.zeros(dtype, buffer).flat, unwanted)

    @cached_property
    def trained(self) -> "Layout":
        """The layout without the frozen arrays, which lie behind all others."""
        end = self.ranges["frozen"].start
        if end == self.size:
            return self
        part = copy(self)
        part.params = {n: param for n, param in self.params.items() if param.group != "frozen"}
        part.shapes = {name: self.shapes[name] for name in part.params}
        part.slices = {name: self.slices[name] for name in part.params}
        part.aliases = {n: target for n, target in self.aliases.items() if target in part.params}
        part.num_parameters = sum(map(prod, part.shapes.values()))
        part.ranges = self.ranges | {"frozen": slice(end, end)}
        part.size = end
        return part

    def init(self, seed: int, dtype: np.typing.DTypeLike = np.float32, buffer: Any = None):
        """Return freshly initialised parameters.

        Each array draws from its own stream, so inserting a layer changes no other array.
        """
        arena = self.zeros(dtype, buffer)
        for name, param in self.params.items():
            arena[name][...] = param.init(stream(seed, "init", name), param.shape)
        return arena

    def tree(self, views: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return `views` nested as the layers are, the form that `forward` takes."""
        root: dict[str, Any] = {}
        for path in self._nodes:
            node = root
            for key in path:
                node = node.setdefault(key, {})
        for name, view in views.items():
            node = root
            *keys, last = self._paths[name]
            for key in keys:
                node = node[key]
            node[last] = view
        return root


class Arena:
    """One contiguous, aligned vector of a layout, with named views that are never rebound.

    `unwanted` are views for the tree alone, of what has no gradient.

    Attributes
    ----------
    flat
        The vector, (size,). The few items between arrays stay zero.
    tree
        The views nested as the layers are.
    ids, unwanted
        Identities of the views, and of those that are in the tree alone.
    """

    def __init__(
        self, layout: Layout, flat: np.ndarray, unwanted: dict[str, np.ndarray] | None = None
    ):
        self.layout = layout
        self.flat = flat[: layout.size]
        views = {n: self.flat[s].reshape(layout.shapes[n]) for n, s in layout.slices.items()}
        views |= {name: views[target] for name, target in layout.aliases.items()}
        self.views: dict[str, np.ndarray] = views
        self.tree = layout.tree(views | (unwanted or {}))
        self.ids = frozenset(id(view) for view in views.values())
        self.unwanted = frozenset(id(view) for view in (unwanted or {}).values())

    @cached_property
    def trained(self) -> "Arena":
        """The part that is trained, in the same memory."""
        layout = self.layout.trained
        return self if layout is self.layout else Arena(layout, self.flat)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.views[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the stored names (an alias is stored once, under its target)."""
        return iter(self.layout.slices)

    def items(self) -> Iterator[tuple[str, np.ndarray]]:
        """Iterate over stored names and their views."""
        return ((name, self.views[name]) for name in self)


def aligned(size: int, dtype: np.typing.DTypeLike) -> np.ndarray:
    """Return an uninitialised vector whose first item lies on a cache line."""
    dtype = np.dtype(dtype)
    raw = np.empty(size * dtype.itemsize + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + size * dtype.itemsize].view(dtype)


def walk_layers(layer: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the layer, for `layer` and everything inside it."""
    yield ".".join(key for key in path if key), layer
    for key, child in layer.children().items():
        yield from walk_layers(child, (*path, key))


def _nodes(layer: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    for key, child in layer.children().items():
        yield from _nodes(child, (*path, key))


def walk_params(
    layer: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...], Param]]:
    """Yield dotted name, path of keys and declaration of every parameter in `layer`."""
    for key, param in layer.params().items():
        full = (*path, key)
        yield ".".join(part for part in full if part), full, param
    for key, child in layer.children().items():
        yield from walk_params(child, (*path, key))
