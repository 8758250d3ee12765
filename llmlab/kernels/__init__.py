"""Memory-bound mathematics as functions on arrays, forward beside backward.

A kernel set is a namespace with the functions of `numpy_kernels`, which is the reference:
`load` returns one by name.
"""

from types import ModuleType

from llmlab.errors import ConfigError

KERNELS = ("numpy",)


def load(name: str) -> ModuleType:
    """Return the kernel set called `name`."""
    if name in ("numpy", "auto"):
        from llmlab.kernels import numpy_kernels

        return numpy_kernels
    raise ConfigError(f"kernels={name}: unknown; known: auto, {', '.join(KERNELS)}")
