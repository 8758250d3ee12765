"""Memory-bound mathematics as functions on arrays, forward beside backward.

A kernel set is a namespace with the functions of `numpy_kernels`, which is the reference:
`load` returns one by name.
"""

import importlib.util
from types import ModuleType

from llmlab.errors import ConfigError, MissingPackage

NAMES = ("numpy", "numba")


def resolve(name: str) -> str:
    """Return the name of a set: `auto` is numba where it is installed, else numpy."""
    installed = importlib.util.find_spec("numba") is not None
    if name == "auto":
        return "numba" if installed else "numpy"
    if name not in NAMES:
        raise ConfigError(f"kernels={name}: unknown; known: auto, {', '.join(NAMES)}")
    if name == "numba" and not installed:
        raise MissingPackage("kernels=numba", "numba", "fast", "choose kernels=numpy")
    return name


def load(name: str) -> ModuleType:
    """Return the kernel set called `name`."""
    if resolve(name) == "numba":
        from llmlab.kernels import numba_kernels

        return numba_kernels
    from llmlab.kernels import numpy_kernels

    return numpy_kernels
