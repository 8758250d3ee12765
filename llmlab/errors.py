"""Errors that a user can meet, each with the exit code of its kind."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class LlmlabError(Exception):
    """Base of every error that is reported in one line, without a traceback.

    Parameters
    ----------
    message
        The line; `{option}` in it stands for `option`.
    option
        An argument to set, as `dtype=uint32`. The registry whose entry takes it puts its key
        before it, so that the message can be followed as it stands.
    """

    exit_code = 1

    def __init__(self, message: str = "", option: str = ""):
        super().__init__(message)
        self.option = option

    def __str__(self) -> str:
        """Return the message with the option."""
        text = super().__str__()
        return text.replace("{option}", self.option) if self.option else text


class TrainingError(LlmlabError):
    """Training could not go on, for example after many non-finite steps."""

    exit_code = 1


class Diverged(TrainingError):
    """Loss or gradient stayed without a finite value."""


class ConfigError(LlmlabError):
    """A key, a value or a combination of them is wrong.

    There may be several problems, to be shown together.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


@contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    """Add the problems of a ConfigError to a list, instead of raising it."""
    try:
        yield
    except ConfigError as error:
        problems += error.problems


class DataError(LlmlabError):
    """A data file is missing, damaged or of another shape than expected."""

    exit_code = 3


class CheckpointError(LlmlabError):
    """A checkpoint is damaged, or does not fit what it should continue."""

    exit_code = 4


class ResourceError(LlmlabError):
    """The machine refuses: no space, no memory, a lock held by somebody else."""

    exit_code = 5


class MissingPackage(ResourceError):
    """A package that an extra of llmlab installs isn't there.

    Parameters
    ----------
    what
        That needs it: `kernels=numba`.
    instead
        What does without it: `choose tokenizer=char`.
    """

    def __init__(self, what: str, package: str, extra: str, instead: str = ""):
        otherwise = f", or {instead}" if instead else ""
        super().__init__(
            f"{what} needs the package '{package}': pip install 'llmlab[{extra}]'{otherwise}"
        )


class Stopped(LlmlabError):
    """A signal ended the work; what was done is saved.

    Parameters
    ----------
    message
        What was saved, and the command that continues.
    exit_code
        128 plus the signal's number, as shells have it.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class Pruned(Stopped):
    """A search gave up a trial, whose run can still be continued.

    `figures` are what is known of it: its last validation loss and its steps.
    """

    def __init__(self, message: str, figures: dict[str, Any]):
        super().__init__(message, 0)
        self.figures = figures


class Infeasible(LlmlabError):
    """A trial of a search was refused before training: it passes a limit."""


def suggest(name: object, options: Iterable[str], alike: float = 0.6) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest of `options`, or an empty string.

    `alike` is how similar it has to be, from 0 to 1.
    """
    near = difflib.get_close_matches(str(name), list(options), n=1, cutoff=alike)
    return f" (did you mean '{near[0]}'?)" if near else ""
