"""Modules of the user's own, imported so that they can register."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from llmlab.plugin_errors import at, described, mark


def import_plugins(names: Sequence[str]) -> list[str]:
    """Import modules by dotted name or by the path of a .py file; return what failed."""
    problems = []
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file(Path(name).expanduser().absolute())
            else:
                mark(importlib.import_module(name))
        except (Exception, SystemExit) as error:
            if where := _place(error, name):
                problems.append(f"plugins={name}: {where}: {described(error)}")
            else:
                expected = "expected a .py file or a module's name"
                problems.append(f"plugins={name}: {described(error)}; {expected}")
    return problems


def _place(error: BaseException, name: str) -> str:
    """Return the last file and line of the module's own that an error came through, if any."""
    if isinstance(error, SyntaxError) and error.filename:
        return at(error.filename, error.lineno)
    own = _module_name(name)
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module == own or module.startswith(f"{own}."):
            found = at(frame.f_code.co_filename, line)
    return found


def _module_name(name: str) -> str:
    return f"llmlab_plugin_{Path(name).stem}" if name.endswith(".py") else name


def _import_file(path: Path) -> None:
    name = _module_name(path.name)
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    mark(module)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
