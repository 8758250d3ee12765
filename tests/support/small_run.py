"""The command line on a tiny network, in an empty folder: for tests of what can go wrong."""

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmlab.cli import main

GOOD = "".join(
    f"{who} {does} {what} .\n"
    for who in ("the sun", "a bird", "the rain")
    for does in ("sees", "warms", "likes")
    for what in ("the tree", "a stone", "the wind")
)
SIZES = [
    "model.embedding_dim=8",
    "model.hidden_dim=8",
    "model.num_blocks=1",
    "model.max_seq_len=12",
]
KEYS = [
    "phase=pretrain",
    "data.pretrain.path=good.txt",
    "data.tune.path=good.txt",
    "threads=1",
    *SIZES,
]


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def problems(self):
        """The lines of stderr without those of a table, which are indented, and a notice."""
        notices = re.compile(r"checkpoint: /|\w+: [\d,]+ steps?, about")
        lines = [line for line in self.err.splitlines() if not notices.match(line)]
        return [line for line in lines if not line.startswith("  ")]


class Lab:
    """Call it with arguments; `tree` is what lies in its folder."""

    def __init__(self, folder, capsys):
        self.folder, self._capsys = Path(folder), capsys

    def __call__(self, *argv):
        self._capsys.readouterr()
        code = main(list(argv))
        return Answer(code, *self._capsys.readouterr())

    def tree(self):
        files = sorted(path for path in self.folder.rglob("*") if not path.is_dir())
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in files if p.is_file()}


@pytest.fixture(scope="session", name="finished")
def finished_run(tmp_path_factory):
    """Return a folder with the text, and a finished run of two steps in `run`."""
    folder = tmp_path_factory.getbasetemp() / "small-run"
    if not folder.exists():
        folder.mkdir()
        (folder / "good.txt").write_text(GOOD)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert main([*KEYS, "steps=2", "save_every=1", "hydra.run.dir=run"]) == 0
    return folder


@pytest.fixture(name="lab")
def small_lab(finished, tmp_path, monkeypatch, capsys):
    """Return a Lab in a copy of `finished`."""
    folder = tmp_path / "lab"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["/somewhere/llmlab/__main__.py"])
    # Hydra composes everything once only to read hydra.mode; a test per process does without.
    monkeypatch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda self, **given: None)
    return Lab(folder, capsys)
