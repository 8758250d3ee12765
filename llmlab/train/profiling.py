"""Clocks round layers and kernels: where the time of a training step goes."""

from collections import defaultdict
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np

from llmlab.layers import Layer, Stack


class Timed(Layer):
    """A layer with a clock; parameters, names and results are the layer's own."""

    def __init__(self, layer: Layer):
        self.layer = layer
        self.reset()

    def reset(self) -> None:
        """Set the clocks to zero."""
        self.forward_seconds = self.backward_seconds = 0.0

    def params(self):
        """Return the layer's."""
        return self.layer.params()

    def children(self):
        """Return the layer's."""
        return self.layer.children()

    def forward(self, p, x, ctx):
        """Time the layer's forward."""
        began = perf_counter()
        result = self.layer.forward(p, x, ctx)
        self.forward_seconds += perf_counter() - began
        return result

    def backward(self, p, g, dy, cache, ctx):
        """Time the layer's backward."""
        began = perf_counter()
        result = self.layer.backward(p, g, dy, cache, ctx)
        self.backward_seconds += perf_counter() - began
        return result

    def flops(self, batch, time):
        """Return the layer's."""
        return self.layer.flops(batch, time)

    def elements(self, batch, time):
        """Return the layer's."""
        return self.layer.elements(batch, time)


def timed_stack(stack: Stack, name: str = "") -> tuple[Stack, dict[str, Timed]]:
    """Return a copy of a stack with a clock round each layer, and the clocks by dotted name.

    Stacks in stacks are opened, so that the layers of every block are seen.
    """
    layers: dict[str, Layer] = {}
    clocks: dict[str, Timed] = {}
    for key, layer in stack.layers.items():
        full = f"{name}.{key}" if name else key
        if isinstance(layer, Stack):
            layers[key], inner = timed_stack(layer, full)
            clocks |= inner
        else:
            layers[key] = clocks[full] = Timed(layer)
    return Stack(layers), clocks


def timed_kernels(kernels: Any) -> tuple[Any, dict[str, list[float]]]:
    """Return a kernel set whose calls are counted and timed, and [calls, seconds] by name."""
    clocks: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    timed = SimpleNamespace()
    for name in kernels.__all__:
        setattr(timed, name, _timed(getattr(kernels, name), clocks[name]))
    return timed, clocks


def _timed(function: Any, clock: list[float]) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        began = perf_counter()
        result = function(*arguments, **named)
        clock[0] += 1
        clock[1] += perf_counter() - began
        return result

    return call


def sgemm_peak(dtype: Any = np.float32, size: int = 1024, rounds: int = 5) -> float:
    """Return the operations per second of the fastest of some large matrix products."""
    a, b = (np.ones((size, size), dtype) for _ in range(2))
    out = np.empty_like(a)
    best = np.inf
    for _ in range(rounds):
        began = perf_counter()
        np.matmul(a, b, out=out)
        best = min(best, perf_counter() - began)
    return 2 * size**3 / best
