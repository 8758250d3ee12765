"""`python -m llmlab`."""

import sys

from llmlab.cli import program

if __name__ == "__main__":
    sys.exit(program())
