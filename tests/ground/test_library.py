"""llmlab from Python: what it exports, without Hydra, and the README's example."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llmlab

ROOT = Path(__file__).parents[2]
WITHOUT_HYDRA = "import sys; sys.modules['hydra'] = sys.modules['omegaconf'] = None\n"


def run(code, folder):
    """Run Python code in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def examples():
    """Return the two Python blocks of the README: looking inside, training."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2, "README.md looks into a network, and trains one"
    return blocks


@pytest.mark.slow
def test_the_library_needs_no_hydra_and_answers_after_a_short_training(tmp_path):
    _, code = examples()
    assert len([line for line in code.splitlines() if line.strip()]) < 20
    (tmp_path / "data").symlink_to(ROOT / "data")
    printed = run(WITHOUT_HYDRA + code, tmp_path).splitlines()
    chats = (ROOT / "data" / "chats.json").read_text(encoding="utf-8")
    assert f" Assistant: {printed[-1]}" in chats, "the answer is none of those it was trained on"


def test_the_readme_looks_at_every_layer_from_the_embedding_to_the_logits(tmp_path):
    code, _ = examples()
    printed = run(WITHOUT_HYDRA + code, tmp_path).splitlines()
    assert printed[0].startswith("tokens: TokenEmbedding (5, 64)")
    assert printed[-1].startswith("all: Stack (5, 500)")


def test_import_costs_nothing(tmp_path):
    code = "import sys, llmlab; print({'numpy', 'hydra', 'omegaconf'} & set(sys.modules))"
    assert run(code, tmp_path) == "set()\n"


@pytest.mark.slow
def test_every_name_can_be_had_without_hydra(tmp_path):
    code = WITHOUT_HYDRA + "from llmlab import *\nfrom llmlab import __all__ as names\n"
    assert run(code + "print(len(set(names) & set(dir())) == len(names))", tmp_path) == "True\n"


def test_dir_tells_the_names():
    assert set(llmlab.__all__) <= set(dir(llmlab))
    assert llmlab.__all__ == sorted(llmlab.__all__)


def test_unknown_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match=r"llmlab.*Trianer"):
        llmlab.Trianer  # noqa: B018
    with pytest.raises(ImportError):
        from llmlab import Trianer  # noqa: F401


def test_type_checkers_see_the_same_homes():
    """The imports for type checkers and the table of lazy ones say the same."""
    tree = ast.parse(Path(llmlab.__file__).read_text(encoding="utf-8"))
    found = {
        alias.name: node.module
        for outer in tree.body
        if isinstance(outer, ast.If)
        for node in outer.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert found == llmlab._HOMES
    assert sorted(found) == llmlab.__all__
