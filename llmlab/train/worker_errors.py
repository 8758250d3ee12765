"""Errors of a worker process on their way to the one that waits for its answer."""

import traceback

from llmlab.errors import LlmlabError, TrainingError
from llmlab.plugin_errors import PluginError, described, plugin_error

OK, FAILED, REFUSED, NO_MEMORY, OF_PLUGIN = range(5)
WORKER = "a worker process"


def told(error: BaseException, where: str = WORKER) -> tuple[int, bytes]:
    """Return the status and the text of an error: a line, and the traceback unless it says all."""
    if isinstance(error, MemoryError):
        return NO_MEMORY, b""
    found = error if isinstance(error, PluginError) else plugin_error(error)
    if isinstance(error, LlmlabError) and found is None:
        return REFUSED, str(error).encode()
    line = str(found) if found else f"in {where}: {described(error)}"
    text = f"{line}\n{''.join(traceback.format_exception(error))}"
    return OF_PLUGIN if found else FAILED, text.encode(errors="replace")


def error_of(status: int, text: bytes, where: str = WORKER) -> Exception:
    """Return the error that `told` tells of."""
    if status == NO_MEMORY:
        return MemoryError(f"in {where}")
    line, _, trace = text.decode(errors="replace").partition("\n")
    if status == REFUSED:
        return TrainingError(f"{line}\n{trace}" if trace else line)
    error = (PluginError if status == OF_PLUGIN else RuntimeError)(line)
    error.__cause__ = RuntimeError(f"in {where}:\n{trace}")
    return error
