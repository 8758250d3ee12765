"""Commands to be typed back, and paths as the user sees them."""

import os
import shlex
import sys
from pathlib import Path


def shell_command(*arguments: str) -> str:
    """Return the command that runs llmlab with `arguments`, as this one was called."""
    called = os.path.basename(sys.argv[0]) if sys.argv else ""
    program = "llmlab" if called == "llmlab" else "python -m llmlab"
    return " ".join([program, *map(shlex.quote, arguments)])


def near(path: Path) -> Path:
    """Return `path` relative to where the user stands, if it is below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
