"""Modules of the user's own, imported so that they can register."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path


def import_plugins(names: Sequence[str]) -> list[str]:
    """Import modules by dotted name or by the path of a .py file; return what failed."""
    problems = []
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file(Path(name).expanduser().absolute())
            else:
                importlib.import_module(name)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
            problems.append(f"plugins={name}: {reason}; expected a .py file or a module's name")
    return problems


def _import_file(path: Path) -> None:
    name = f"llmlab_plugin_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
