"""CONTRIBUTING.md's recipe, to the letter: a layer and an optimizer from outside the package."""

import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from new_process import new_process

from llmlab.checkpoints import load
from llmlab.cli import main

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = FENCE.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def files():
    """Return the recipe's files: blocks whose first line is a comment with a path."""
    named = [re.match(r"(?:# @package \S+\n)?# (my_\S+|test_my_\S+)\n", code) for _, code in BLOCKS]
    return {m[1]: code for m, (_, code) in zip(named, BLOCKS, strict=True) if m is not None}


def commands():
    """Return the arguments of the recipe's commands, in order."""
    shell = "\n".join(code for language, code in BLOCKS if language == "bash")
    lines = shell.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[3:] for line in lines if line.startswith("python -m llmlab")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the recipe's files; what they register is forgotten after the test."""
    for path, code in files().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(code)
    monkeypatch.chdir(tmp_path)
    new_process(monkeypatch)
    return tmp_path


def lab(capsys, *argv):
    capsys.readouterr()
    code = main(argv)
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def run_folders(folder):
    records = sorted(folder.glob("runs/*/*/run.json"), key=lambda path: path.stat().st_mtime_ns)
    return [path.parent for path in records]


def test_the_recipe_is_complete():
    assert set(files()) == {
        "my_layers.py",
        "my_optimizers.py",
        "my_callbacks.py",
        "my_phases.py",
        "test_my_layers.py",
        "my_conf/phase/my_longest.yaml",
        "my_conf/model/my_model.yaml",
        "my_conf/optimizer/my_momentum.yaml",
    }
    assert len(commands()) == 5


def test_a_layer_from_outside_trains_answers_and_is_missed(folder, monkeypatch, capsys):
    train, generate, *_ = commands()
    code, _, err = lab(capsys, *train, "steps=3")
    assert code == 0, err
    (run,) = run_folders(folder)
    checkpoint = load(run / "checkpoints" / "step-000003.npz")
    weight = checkpoint.arrays["params/scale.weight"]
    assert weight.shape == (128,) and (weight != 1).any(), "the layer was not trained"

    new_process(monkeypatch)
    code, out, err = lab(capsys, *generate, "max_new_tokens=4")
    assert code == 0, err
    assert len(out.splitlines()) == 1

    new_process(monkeypatch)
    monkeypatch.setattr(sys, "stdin", io.StringIO("What causes rain?\n"))
    code, out, err = lab(capsys, "phase=chat", "plugins=my_layers.py", "max_new_tokens=4")
    assert code == 0, err
    assert out.strip()

    new_process(monkeypatch)
    without = [word for word in generate if not word.startswith("plugins=")]
    code, out, err = lab(capsys, *without)
    assert (out, len(err.splitlines())) == ("", 1), err
    assert code in (2, 4)
    assert "my_scale" in err and "plugins=" in err


def test_it_takes_anothers_place_without_a_file_and_from_another_folder(
    folder, monkeypatch, capsys
):
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    norm = "model.stack.blocks.layers.attention.norm={type: my_scale, init: zeros}"
    plugin = "plugins=../my_layers.py"
    code, _, err = lab(capsys, plugin, "phase=pretrain", "experiment=tiny", "steps=2", norm)
    assert code == 0, err
    (run,) = run_folders(folder / "elsewhere")
    weight = load(run / "checkpoints" / "step-000002.npz").arrays[
        "params/blocks.0.attention.norm.weight"
    ]
    assert weight.shape == (32,) and 0 < abs(weight).max() < 0.1


@pytest.mark.slow
def test_an_optimizer_from_outside_trains(folder, capsys):
    train = commands()[2]
    code, _, err = lab(capsys, *train, "steps=3", "experiment=tiny")
    assert code == 0, err
    (run,) = run_folders(folder)
    arrays = load(run / "checkpoints" / "step-000003.npz").arrays
    states = {name.split("/")[1] for name in arrays if name.startswith("optimizer/")}
    assert states == {"v"}
    assert any(array.any() for name, array in arrays.items() if name.startswith("optimizer/"))
    rows = (run / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["loss"] for row in rows]
    assert len(losses) == 3 and all(losses)


def test_a_callback_from_outside_writes_into_the_rows(folder, capsys):
    watch = commands()[3]
    code, _, err = lab(capsys, *watch, "experiment=tiny", "steps=6")
    assert code == 0, err
    (run,) = run_folders(folder)
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "weight_norm" in row] == [5]
    assert "norm" in yaml.safe_load((run / "config.yaml").read_text())["callbacks"]["order"]
    (folder / "my_callbacks.py").write_text(
        (folder / "my_callbacks.py").read_text().replace("float(np", "np.nan * float(np")
    )
    wrong = [*watch, "experiment=tiny", "steps=6", "callbacks.norm.evry=2"]
    code, _, err = lab(capsys, *wrong)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "callbacks.norm.evry: unknown argument" in err and "did you mean 'every'" in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["callbacks.metrics=null"], "callbacks.metrics=null: a run can't do without it"),
        (["callbacks.mine={type: nothing}"], "unknown callback 'nothing'"),
        (["callbacks.bar.after=br"], "callbacks.bar.after=br: no callback of this name"),
    ],
)
def test_callbacks_that_cannot_be_are_named(folder, capsys, argv, said):
    code, _, err = lab(capsys, "phase=tune", "steps=1", *argv)
    assert code == 2 and said in err, err


def test_a_phase_from_outside_has_arguments_of_its_own(folder, monkeypatch, capsys):
    ask = commands()[4]
    assert lab(capsys, "experiment=tiny", "phase=tune", "steps=1")[0] == 0
    code, out, err = lab(capsys, *ask)
    assert code == 0, err
    assert len(out.splitlines()) == 3
    assert len(lab(capsys, *ask[:-1])[1].splitlines()) == 5
    for wrong, said in (
        ("my_longest.tpo=3", "did you mean"),
        ("my_longest.top=x", "a whole number"),
    ):
        code, _, err = lab(capsys, *ask[:-1], wrong)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert wrong.split("=")[0] in err and said in err
    new_process(monkeypatch)
    without = [word for word in ask if not word.startswith("plugins=")]
    code, _, err = lab(capsys, *without)
    assert code == 2 and "phase=my_longest: unknown phase" in err and "plugins=" in err


def test_a_plugin_that_is_not_there_is_one_line(folder, capsys):
    code, _, err = lab(capsys, "plugins=my_layer.py", "phase=list")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert f"plugins={folder / 'my_layer.py'}" in err
    (folder / "my_broken.py").write_text("import nothing_of_that_name\n")
    code, _, err = lab(capsys, "plugins=my_broken.py", "phase=list")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "nothing_of_that_name" in err
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_the_recipes_own_test_passes_and_can_fail(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code = compile((folder / "test_my_layers.py").read_text(), "test_my_layers.py", "exec")

    def contract():
        new_process(monkeypatch)
        names = {}
        exec(code, names)
        (test,) = (value for name, value in names.items() if name.startswith("test_"))
        for check in names["CHECKS"]:
            for time in (1, 4):
                test(check, time)

    contract()
    path = folder / "my_layers.py"
    text = path.read_text()
    path.write_text(text.replace('"nc,nc->c", dy, cache', '"nc,nc->c", dy, dy'))
    assert path.read_text() != text
    with pytest.raises(AssertionError, match=r"gradient of layer\.weight"):
        contract()
