"""Clocks around layers and kernels: where the time of a training step goes."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np

from llmlab.layers import Layer, Stack
from llmlab.network import shadowed


@dataclass
class Clock:
    """Seconds of a layer's two passes."""

    forward: float = 0.0
    backward: float = 0.0

    @property
    def spent(self) -> float:
        """Seconds of both, never zero."""
        return max(self.forward + self.backward, 1e-12)


@contextmanager
def timed_layers(stack: Stack) -> Iterator[dict[str, Clock]]:
    """Give a clock for each layer of a stack by its path; they run while the context is open."""
    layers = dict(stack.leaves())
    clocks = {path: Clock() for path in layers}
    own = {id(layer): clocks[path] for path, layer in layers.items()}

    def timing(name: str) -> Any:
        def wrap(layer: Layer, method: Any) -> Any:
            clock = own[id(layer)]

            def timed(*arguments: Any) -> Any:
                began = perf_counter()
                result = method(*arguments)
                setattr(clock, name, getattr(clock, name) + perf_counter() - began)
                return result

            return timed

        return shadowed(layers.values(), name, wrap)

    with timing("forward"), timing("backward"):
        yield clocks


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
