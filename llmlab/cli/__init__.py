"""The command line: `python -m llmlab`, or `llmlab`."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from llmlab import __version__
from llmlab.cli.standard_streams import close_streams, open_streams


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (`sys.argv` by default) and return its exit code.

    Exit codes: 0 done, 1 training failed, 2 configuration, 3 data, 4 checkpoint, 5 environment,
    130, 143, 138 and 140 for signals (128 and their number), 141 for a closed pipe. Errors are
    one line on stderr each; with `LLMLAB_DEBUG=1` the traceback follows.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    before = sys.stdin, sys.stdout, sys.stderr
    open_streams()
    try:
        try:
            code = _run(argv)
        except BrokenPipeError:
            code = 141
        failure = close_streams()
        if failure is not None and code == 0:
            code = 141 if isinstance(failure, BrokenPipeError) else 5
            if code == 5:
                print(f"error: {failure.filename}: {failure.strerror}", file=sys.stderr)
        return code
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def program() -> int:
    """Run `sys.argv` as a process that ends when this returns, and return its exit code.

    When the work is done, another signal only hurries the end: it changes neither the exit code
    nor what was printed.
    """
    try:
        code = main()
    except KeyboardInterrupt:  # while the first one was being reported
        code = 130

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(code)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return code


def _lead(argv: list[str]) -> int:
    """Run a command line, unless another process does."""
    from llmlab.cli.ranks import refuse_sweep
    from llmlab.cli.resume import prepare

    command = prepare(argv)
    if command.sweep:
        refuse_sweep(command.tokens)
    from llmlab.cli.start import start

    return start(command)


def _run(argv: list[str]) -> int:
    try:
        if {"--help", "-h"} & set(argv) or argv[:1] == ["help"]:
            from llmlab.cli.help import help_text

            print(help_text())
            return 0
        if "--version" in argv:
            print(f"llmlab {__version__}")
            return 0
        from llmlab.cli import ranks

        return ranks.run(argv, lambda: _lead(argv))
    except BrokenPipeError:
        raise
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except (Exception, KeyboardInterrupt) as error:
        from llmlab.cli.explain import report

        return report(error)
