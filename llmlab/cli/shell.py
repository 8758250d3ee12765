"""Commands to be typed back."""

import os
import shlex
import sys


def shell_command(*arguments: str) -> str:
    """Return the command that runs llmlab with `arguments`, as this one was called."""
    called = os.path.basename(sys.argv[0]) if sys.argv else ""
    program = "llmlab" if called == "llmlab" else "python -m llmlab"
    return " ".join([program, *map(shlex.quote, arguments)])
