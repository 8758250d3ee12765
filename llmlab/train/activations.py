"""How much memory activations take, from a training step that has shapes and no numbers."""

from typing import Any, NamedTuple

import numpy as np

from llmlab import kernels as kernel_sets
from llmlab.layers import Layer, Stack
from llmlab.network import shadowed
from llmlab.params import Layout
from llmlab.workspace import Context, Workspace


class ShapeArray(np.ndarray):
    """An array whose items are all the same number; nothing is computed or written.

    So a layer's own code runs on arrays of any size at once and without memory.
    """

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Give `out` back as it is, or an array of the result's shape."""
        out = options.pop("out", None)
        if out is not None:
            return out[0]
        if method == "reduce":
            return _reduced(inputs[0], **options)
        if method == "reduceat":
            return shape_array((len(inputs[1]), *inputs[0].shape[1:]), self.dtype)
        if method == "__call__" and ufunc.signature is None:
            return shape_array(np.broadcast_shapes(*map(np.shape, inputs)), self.dtype)
        return getattr(ufunc, method)(*map(_plain, inputs), **options)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Do nothing for functions that would only write."""
        if kwargs.get("out") is not None:
            return kwargs["out"]
        if func is np.bincount:  # of experts' tokens, say: which they are isn't known, so alike
            bins = kwargs.get("minlength", 1)
            return np.diff(np.arange(bins + 1) * args[0].size // bins)
        return None if func is np.copyto else super().__array_function__(func, types, args, kwargs)

    def __setitem__(self, at: Any, value: Any) -> None:
        """Write nothing."""

    def fill(self, value: Any) -> None:
        """Write nothing."""


def shape_array(shape: tuple[int, ...], dtype: Any) -> ShapeArray:
    """Return an array of zeros that takes the memory of one."""
    cell = np.zeros(1, dtype)
    return ShapeArray(shape, cell.dtype, buffer=cell, strides=(0,) * len(shape))


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, ShapeArray) else x


def _reduced(x: np.ndarray, axis: Any = 0, keepdims: bool = False, **_: Any) -> Any:
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis) % x.ndim
    kept = [1 if at in axes else size for at, size in enumerate(x.shape)]
    shape = kept if keepdims else [size for at, size in enumerate(x.shape) if at not in axes]
    return shape_array(tuple(shape), x.dtype) if shape else x.dtype.type(0)


class _Shapes(Workspace):
    """A workspace that counts what it is asked for."""

    def _beyond(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return shape_array(shape, dtype)


class _NoDraws:
    """A generator of random numbers that writes none."""

    def __init__(self) -> None:
        self.bit_generator = self

    def random(self, **_: Any) -> None: ...

    def advance(self, count: int) -> None: ...


class Activations(NamedTuple):
    """What a training step takes from its workspace."""

    peak: int  # bytes of all that is held at once
    # Of each layer of the stack by its path: bytes that its passes leave in use, and the width of
    # its output.
    layers: dict[str, tuple[int, int]]


def activations(
    stack: Stack, layout: Layout, batch: int, time: int, dtype: Any = np.float32
) -> Activations | None:
    """Return what a training step on (batch, time) tokens takes, with dropout on.

    None if the code of a layer (a plug-in's) can't do without numbers.
    """
    try:
        return _measure(stack, layout, batch, time, dtype)
    except Exception:
        return None  # what is wrong with it, if anything, the first step tells


def _measure(stack: Stack, layout: Layout, batch: int, time: int, dtype: Any) -> Activations:
    workspace = _Shapes(dtype)
    ctx = Context(kernel_sets.load("numpy"), dtype, workspace)
    leaves = dict(stack.leaves())
    paths = {id(layer): path for path, layer in leaves.items()}
    taken, widths = dict.fromkeys(leaves, 0), dict.fromkeys(leaves, 0)

    def wrap(layer: Layer, method: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            before = workspace.taken
            result = method(*arguments)
            path = paths[id(layer)]
            taken[path] += workspace.taken - before
            if isinstance(result, tuple):
                widths[path] = result[0].shape[1]
            return result

        return counted

    ids, weights = np.zeros(batch * time, np.intp), np.ones(batch * time, dtype)
    params, grads = _views(layout, dtype), _views(layout, dtype)
    ctx.fresh = {id(grads[name]) for name in layout.trained.shapes}
    ctx.unwanted = frozenset(map(id, grads.values())) - ctx.fresh
    ctx.begin(batch, time, rng=[_NoDraws()] * batch, weights=weights)  # type: ignore[list-item]
    p, g = layout.tree(params), layout.tree(grads)
    with (
        np.errstate(all="ignore"),
        shadowed(leaves.values(), "forward", wrap),
        shadowed(leaves.values(), "backward", wrap),
    ):
        logits, cache = stack.forward(p, ids, ctx)
        _, dlogits = ctx.kernels.cross_entropy(ctx, logits, ids, weights, 1.0)
        stack.backward(p, g, dlogits, cache, ctx)
    return Activations(workspace.peak, {path: (taken[path], widths[path]) for path in leaves})


def _views(layout: Layout, dtype: Any) -> dict[str, np.ndarray]:
    views = {name: shape_array(shape, dtype) for name, shape in layout.shapes.items()}
    return views | {name: views[target] for name, target in layout.aliases.items()}  # pyright: ignore[reportReturnType]
