"""Where conf/ and data/ lie: beside the package in a checkout, inside it in a wheel."""

from functools import cache
from pathlib import Path

import llmlab
from llmlab.errors import ResourceError


def conf_folder() -> Path:
    """Return the absolute path of conf/."""
    return _folder("conf", "config.yaml")


def data_folder() -> Path:
    """Return the absolute path of data/."""
    return _folder("data", "chats.json")


@cache
def _folder(name: str, proof: str) -> Path:
    package = Path(llmlab.__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if (folder / proof).is_file():
            return folder
    raise ResourceError(f"{package / name}: no {proof} there; install llmlab again")
