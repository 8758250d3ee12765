"""What is printed when something went wrong, and with which exit code."""

import os
import sys
import traceback

from llmlab.errors import ConfigError, LlmlabError
from llmlab.plugin_errors import PluginError, described


def report(error: BaseException) -> int:
    """Print `error` to stderr, a line for each problem, and return its exit code."""
    if os.environ.get("LLMLAB_DEBUG") == "1":
        traceback.print_exception(error, file=sys.stderr)
    lines, code = explain(error)
    for line in [*lines, *getattr(error, "__notes__", [])]:
        print(line, file=sys.stderr)
    return code


def explain(error: BaseException) -> tuple[list[str], int]:
    """Return the lines that tell of `error`, and its exit code."""
    if isinstance(error, BrokenPipeError):
        return [], 141
    if isinstance(error, KeyboardInterrupt):
        return [str(error) or "stopped"], getattr(error, "exit_code", 130)
    if isinstance(error, ConfigError):
        return [f"error: {problem}" for problem in error.problems], error.exit_code
    if isinstance(error, LlmlabError):
        stopped = error.exit_code > 128
        if isinstance(error, PluginError):
            return [f"error: {error}{_hint(error)}"], error.exit_code
        return [str(error) if stopped else f"error: {error}"], error.exit_code
    if isinstance(error, MemoryError):
        return ["error: out of memory; lower batch_size or the sizes of the model"], 5
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return [f"error: {where}{error.strerror or error}"], 5
    return [f"error: {described(error)}{_hint(error)}"], 1


def _hint(error: BaseException) -> str:
    return "" if hasattr(error, "__notes__") else "; LLMLAB_DEBUG=1 shows the traceback"
