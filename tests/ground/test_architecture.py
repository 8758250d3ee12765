"""The floors of the house, read from the imports: they go downward only."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import llmlab

ROOT = Path(llmlab.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A new room belongs on a floor before it is built.
FLOORS = {
    **dict.fromkeys(("errors", "registry", "streams", "params", "workspace", "kernels"), 0),
    **dict.fromkeys(("batch", "network", "named", "plugin_errors", "schema"), 0),
    **dict.fromkeys(("atomic_write", "regular_file", "signals"), 0),
    **dict.fromkeys(("layers", "optim", "text", "checkpoints"), 1),
    **dict.fromkeys(("train", "generate", "measure", "exchange", "study", "inspect"), 2),
    **dict.fromkeys(("config", "build", "contract", "runs", "report", "resources", "search"), 3),
    **dict.fromkeys(("phases", "serve"), 4),
    **dict.fromkeys(("cli", "__main__"), 5),
}
APART = (1, 2)  # floors whose rooms don't know each other
LIBRARIES = {  # third-party imports, and where each may be
    "numpy": None,
    "hydra": ("cli", "config"),
    "omegaconf": ("cli", "config"),
    "annotationlib": ("schema",),  # of Python 3.14 and later
    "numba": ("kernels",),
    "threadpoolctl": ("train", "runs", "generate", "phases"),
    "tqdm": ("text", "train", "phases"),
    "yaml": ("cli", "config", "runs"),
    "mpi4py": ("train",),
    **dict.fromkeys(("tensorboardX", "wandb", "mlflow", "trackio"), ("train",)),
    "tokenizers": ("text", "exchange"),
    "jinja2": ("text",),
    "safetensors": ("exchange",),
    "prompt_toolkit": ("phases",),
    "scipy": ("study",),
    "starlette": ("serve",),
    "uvicorn": ("serve",),
    "h11": ("serve",),
    "optuna": ("search",),
    "cmaes": ("search",),
    "altair": ("report",),
    **dict.fromkeys(("hydra_plugins", "submitit", "dask", "distributed"), ("cli",)),
    "vl_convert": ("report",),
}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 250, 60


def room(module: str) -> str:
    """Return the room of `llmlab.room.…`."""
    return module.split(".")[1] if "." in module else ""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def read(path: Path) -> tuple[str, list, dict[str, int], list]:
    """Return a file's text, its imports, the lines of its functions, and its calls of note."""
    text = path.read_text(encoding="utf-8")
    imported, lengths, calls = [], {}, []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported.append(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            lengths[node.name] = max(length, lengths.get(node.name, 0))
        if isinstance(node, ast.Call):
            if getattr(node.func, "id", None) in ("eval", "exec", "compile", "__import__"):
                calls.append((node.lineno, node.func.id))
            for keyword in node.keywords:
                on = not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
                if keyword.arg == "allow_pickle" and on:
                    calls.append((node.lineno, keyword.arg))
    return text, imported, lengths, calls


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every imported module of a file and its line, also those inside functions."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in read(path)[1]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            if base == ["llmlab"]:
                for alias in node.names:
                    yield f"llmlab.{alias.name}", node.lineno
            else:
                yield ".".join(base), node.lineno


def breaches(path: Path) -> Iterator[str]:
    """Yield what a file imports against the rules."""
    own = room(module_of(path))
    if not own:
        return  # the package itself: names for users of the library, imported when asked for
    for module, line in imports(path):
        where = f"{path.relative_to(ROOT.parent)}:{line}"
        top = module.split(".")[0]
        if top == "llmlab":
            other = room(module)
            if other not in FLOORS or other == own:
                continue
            if FLOORS[other] > FLOORS[own]:
                floors = f"floor {FLOORS[own]} ({own}) imports floor {FLOORS[other]} ({other})"
                yield f"{where}: {floors}"
            elif FLOORS[other] == FLOORS[own] and FLOORS[own] in APART:
                yield f"{where}: {own} and {other} share a floor and may not know each other"
        elif top not in sys.stdlib_module_names:
            allowed = LIBRARIES.get(top, ())
            if allowed is not None and own not in allowed:
                yield f"{where}: {own} may not import {top}"


def test_every_file_has_a_floor():
    rooms = {room(module_of(path)) for path in FILES} - {""}
    assert rooms <= set(FLOORS), "give the new room a floor in FLOORS"


def test_imports_go_downward_only():
    found = [breach for path in FILES for breach in breaches(path)]
    assert not found, "\n".join(found)


def modules_of(path: Path, known: set[str]) -> Iterator[str]:
    """Yield which files of the package a file imports."""
    for node in read(path)[1]:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def circles(graph: dict[str, set[str]]) -> set[str]:
    """Return the files left when those that import nothing that is left are taken away."""
    left = dict(graph)
    while free := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in free:
            del left[name]
    return set(left)


def test_no_import_goes_round_in_a_circle():
    known = {module_of(path) for path in FILES}
    graph = {module_of(path): set(modules_of(path, known)) & known for path in FILES}
    assert not circles(graph)
    assert circles({"a": {"b"}, "b": {"a"}, "c": set()}) == {"a", "b"}


def test_the_rule_sees_a_breach(tmp_path, monkeypatch):
    text = "def f():\n    from llmlab.train import trainer\n    from llmlab import phases\n"
    text += (
        "import hydra\nfrom llmlab.text import Batch\nfrom ..cli import start\nimport requests\n"
    )
    (tmp_path / "llmlab" / "layers").mkdir(parents=True)
    path = tmp_path / "llmlab" / "layers" / "wrong.py"
    path.write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path / "llmlab")
    found = "\n".join(breaches(path))
    for said in ("(train)", "(phases)", "import hydra", "layers and text", "(cli)", "requests"):
        assert said in found
    assert len(found.splitlines()) == 6


def problems(path: Path) -> Iterator[str]:
    """Yield what is wrong with a file by itself."""
    text, _, lengths, calls = read(path)
    if len(text.splitlines()) > MOST_LINES or path.name == "utils.py":
        yield "split it"
    for name, length in lengths.items():
        if length > MOST_LINES_OF_A_FUNCTION:
            yield f"{name}: split it"
    yield from (f"line {line}: {name}" for line, name in calls)
    modules = {module.split(".")[0] for module, _ in imports(path)}
    yield from modules & {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
    if "_target_" in text and "cli" not in path.parts and "config" not in path.name:
        yield "_target_"


def test_files_are_short_and_run_no_foreign_code():
    found = [f"{path.relative_to(ROOT)}: {each}" for path in FILES for each in problems(path)]
    assert not found, "\n".join(found)


def test_a_long_file_and_foreign_code_are_seen(tmp_path, monkeypatch):
    path = tmp_path / "llmlab" / "long.py"
    path.parent.mkdir()
    text = "import pickle, numpy as np\ndef f(x):\n" + "    x += 1\n" * MOST_LINES
    text += "eval('1')\nnp.load('a', allow_pickle=True)\nnp.load('a', allow_pickle=False)\n"
    path.write_text(text + "a = '_target_'\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path / "llmlab")
    line = MOST_LINES + 3
    said = ["split it", "f: split it", f"line {line}: eval", f"line {line + 1}: allow_pickle"]
    assert list(problems(path)) == [*said, "pickle", "_target_"]


def test_configuration_names_no_import_paths():
    folder = ROOT.parent / "conf"
    if not folder.is_dir():
        pytest.skip("conf/ is not beside the package")
    for path in folder.rglob("*.yaml"):
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [line for line in lines if "_target_" in line and "llmlab.cli" not in line]
        assert not found, f"{path}: {found}"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_the_library_needs_no_hydra():
    code = "import sys, llmlab\n"
    code += "assert 'numpy' not in sys.modules, 'importing llmlab alone should cost nothing'\n"
    code += "[getattr(llmlab, name) for name in llmlab.__all__]\n"
    code += "print([n for n in ('hydra', 'omegaconf', 'torch', 'numba') if n in sys.modules])"
    assert run(code) == "[]"


def test_names_of_the_library_exist():
    for name in llmlab.__all__:
        assert getattr(llmlab, name) is not None
    assert set(llmlab.__all__) <= set(dir(llmlab))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llmlab.nothing


def test_importing_changes_no_global_state():
    # No seed of NumPy's own generator, no handlers of the root logger, no signals.
    code = "import logging, signal, numpy as np; np.random.seed(1); a = np.random.get_state()[1]\n"
    code += "before = [signal.getsignal(n) for n in (2, 15)]\n"
    code += "import llmlab; [getattr(llmlab, name) for name in llmlab.__all__]\n"
    code += "import llmlab.phases\n"
    code += "assert (np.random.get_state()[1] == a).all() and not logging.getLogger().handlers\n"
    code += "assert before == [signal.getsignal(n) for n in (2, 15)]\nprint('fine')"
    assert run(code) == "fine"
