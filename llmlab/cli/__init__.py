"""The command line: `python -m llmlab`, or `llmlab`."""

import os
import sys
from collections.abc import Sequence

from llmlab import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (`sys.argv` by default) and return its exit code.

    Exit codes: 0 done, 1 training failed, 2 configuration, 3 data, 4 checkpoint, 5 environment,
    130, 143, 138 and 140 for signals (128 and their number), 141 for a closed pipe. Errors are
    one line on stderr each; with `LLMLAB_DEBUG=1` the traceback follows.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(argv)
        if code != 141:
            sys.stdout.flush()
    except BrokenPipeError:
        code = 141
    if code == 141:
        _close_stdout()
    return code


def _run(argv: list[str]) -> int:
    if {"--help", "-h"} & set(argv):
        from llmlab.cli.help import help_text

        print(help_text())
        return 0
    if "--version" in argv:
        print(f"llmlab {__version__}")
        return 0
    try:
        from llmlab.cli.resume import prepare

        command = prepare(argv)
        from llmlab.cli.start import start

        return start(command)
    except BrokenPipeError:
        raise
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except (Exception, KeyboardInterrupt) as error:
        from llmlab.cli.explain import report

        return report(error)


def _close_stdout() -> None:
    """Keep the interpreter from complaining at its end that nobody reads stdout."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, sys.stdout.fileno())
    except (OSError, ValueError):
        pass  # stdout is no file, as under a test
    finally:
        os.close(nothing)
