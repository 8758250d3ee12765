"""Errors in code of the user's own: where they happened, in one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from llmlab.errors import LlmlabError

_MARK = "__llmlab_plugin__"


class PluginError(LlmlabError):
    """Code of the user's own raised an error; the message says where, the cause how."""

    exit_code = 1


def mark(module: ModuleType) -> None:
    """Make a module, and those inside it if it is a package, known as the user's own."""
    setattr(module, _MARK, True)


@contextmanager
def located(stack: Any = None, owner: str = "") -> Iterator[None]:
    """Raise errors from code of the user's own as `PluginError`s; others pass as they are.

    Parameters
    ----------
    stack
        The network at work, whose layers are named by their path.
    owner
        Whose code it is if it is no layer's: the key of the configuration.
    """
    try:
        yield
    except (LlmlabError, MemoryError, BrokenPipeError):
        raise
    except Exception as error:
        found = plugin_error(error, stack, owner)
        if found is None:
            raise
        raise found from error


def plugin_error(error: BaseException, stack: Any = None, owner: str = "") -> PluginError | None:
    """Return the error with its place in the user's own code; None if it isn't from there."""
    from llmlab.params import walk_layers  # needs NumPy, which the help does without

    paths = {} if stack is None else {id(layer): path for path, layer in walk_layers(stack)}
    place, current = "", owner
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        path = paths.get(id(frame.f_locals.get("self")))
        current = f"layer {path}" if path else current
        if _is_plugin(frame.f_globals.get("__name__", "")):
            place = f"{current}: " * bool(current) + at(frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return PluginError(f"{place}: {described(error)}") if place else None


def described(error: BaseException) -> str:
    """Return type and message in one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(text.split()) or 'no message'}"


def at(file: str, line: int | None) -> str:
    """Return file and line; the file as seen from the current folder, if it lies there."""
    path = Path(file)
    near = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{near}:{line}"


def _is_plugin(name: str) -> bool:
    parts = name.split(".")
    return any(
        hasattr(sys.modules.get(".".join(parts[:end])), _MARK) for end in range(1, len(parts) + 1)
    )
