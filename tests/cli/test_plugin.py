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
    assert len(commands()) == 6


def test_a_layer_from_outside_trains_answers_and_is_missed(folder, monkeypatch, capsys):
    _, train, generate, *_ = commands()
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


@pytest.mark.slow
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
    train = commands()[3]
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


@pytest.mark.slow
def test_a_callback_from_outside_writes_into_the_rows(folder, capsys):
    watch = commands()[4]
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


@pytest.mark.every_day(1)
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


@pytest.mark.slow
def test_a_phase_from_outside_has_arguments_of_its_own(folder, monkeypatch, capsys):
    ask = commands()[5]
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
def test_the_recipe_is_checked_before_a_run(folder, monkeypatch, capsys):
    code, out, err = lab(capsys, *commands()[0])
    assert (code, err) == (0, ""), err
    assert out.startswith("layer my_scale\n") and out.count("fine") == 13
    assert not (folder / "runs").exists()
    breaks(folder / "my_layers.py", '"nc,nc->c", dy, cache', '"nc,nc->c", dy, dy')
    new_process(monkeypatch)
    code, out, err = lab(capsys, *commands()[0])
    assert (code, len(err.splitlines())) == (2, 1)
    assert "  gradients        gradient of layer.weight: off by" in out


def breaks(path, old, new):
    """Replace something in a plug-in; return the number of the line."""
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return text.split(old)[0].count("\n") + 1


TRAIN = ("phase=pretrain", "experiment=tiny", "steps=2")
SCALE = "model.stack.scale={type: my_scale, after: tokens}"


@pytest.mark.every_day(1)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('np.multiply(x, p["weight"], out=y)', "y.nothing", "AttributeError: 'numpy.ndarray'"),
        ("gradient += np.einsum", "gradient += 1 / 0; np.einsum", "ZeroDivisionError: division"),
    ],
)
def test_an_error_in_a_layer_is_one_line_with_its_name(folder, capfd, threads, old, new, error):
    line = breaks(folder / "my_layers.py", old, new)
    code = main(["plugins=my_layers.py", *TRAIN, SCALE, f"threads={threads}"])
    err = capfd.readouterr().err
    (told,) = [each for each in err.splitlines() if each.startswith("error: ")]
    assert code == 1
    assert told.startswith(f"error: layer scale: my_layers.py:{line}: {error}")
    assert "Traceback" not in err
    (run,) = run_folders(folder)
    assert f"the traceback is in {run.relative_to(folder) / 'log'}" in err
    assert "Traceback" in (run / "log").read_text()
    assert f"my_layers.py:{line}" in json.loads((run / "run.json").read_text())["results"]["error"]


@pytest.mark.slow
def test_an_error_in_a_worker_alone_comes_out_of_it(folder, capfd, monkeypatch):
    path = folder / "my_layers.py"
    breaks(path, "import numpy as np", "import os\n\nimport numpy as np\n\nPARENT = os.getpid()")
    raising = "if os.getpid() != PARENT:\n            raise KeyError('worker')\n        "
    line = breaks(path, "y = ctx.empty(x.shape)", f"{raising}y = ctx.empty(x.shape)") + 1
    inside = "model.stack.blocks.layers.attention.norm.type=my_scale"
    code = main(["plugins=my_layers.py", *TRAIN, inside, "threads=2"])
    err = capfd.readouterr().err
    assert code == 1 and "Traceback" not in err
    place = f"my_layers.py:{line}: KeyError: 'worker'"
    assert f"error: layer blocks.0.attention.norm: {place}\n" in err
    (run,) = run_folders(folder)
    assert "in a worker process:\nTraceback" in (run / "log").read_text()


@pytest.mark.every_day(1)
@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_an_optimizer_is_one_line(folder, capfd, threads):
    line = breaks(folder / "my_optimizers.py", "v *= self.beta", "v *= self.bet")
    words = ("--config-dir", "my_conf", "plugins=my_optimizers.py", "optimizer=my_momentum")
    code = main([*words, *TRAIN, f"threads={threads}"])
    err = capfd.readouterr().err
    assert code == 1 and "Traceback" not in err
    assert f"error: my_optimizers.py:{line}: AttributeError: 'Momentum' object has no" in err


@pytest.mark.slow
def test_an_error_in_a_callback_a_phase_or_a_constructor_is_one_line(folder, monkeypatch, capsys):
    line = breaks(folder / "my_callbacks.py", "if progress.step %", "if progress.stop %")
    norm = ("callbacks.norm.type=my_weight_norm",)
    code, _, err = lab(capsys, "plugins=my_callbacks.py", *TRAIN, *norm)
    assert code == 1
    assert f"error: my_callbacks.py:{line}: AttributeError: 'Progress' object has no" in err
    line = breaks(folder / "my_phases.py", "lengths[token]", "lengths[token / 2]")
    new_process(monkeypatch)
    assert lab(capsys, *TRAIN)[0] == 0
    code, _, err = lab(capsys, *commands()[5])
    assert code == 1 and "Traceback" not in err
    assert f"error: my_phases.py:{line}: IndexError: only integers" in err.splitlines()[-1]
    assert "LLMLAB_DEBUG=1 shows the traceback" in err
    monkeypatch.setenv("LLMLAB_DEBUG", "1")
    _, _, err = lab(capsys, *commands()[5])
    assert "Traceback" in err and "IndexError" in err
    monkeypatch.delenv("LLMLAB_DEBUG")
    line = breaks(folder / "my_layers.py", "= embedding_dim, init", "= 1 + init, init")
    code, _, err = lab(capsys, "plugins=my_layers.py", *TRAIN, SCALE)
    assert code == 1
    assert f"error: model.stack.scale: my_layers.py:{line}: TypeError: unsupported operand" in err


@pytest.mark.every_day(1)
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\nprint(x))\n", "my_wrong.py:2: SyntaxError: unmatched ')'"),
        ("def f():\n    return 1 / 0\n\nf()\n", "my_wrong.py:2: ZeroDivisionError: division by"),
        ("import json\njson.loads('{')\n", "my_wrong.py:2: JSONDecodeError: Expecting"),
        ("\nimport nothing_of_that_name\n", "my_wrong.py:2: ModuleNotFoundError: No module"),
        ("raise SystemExit(0)\n", "my_wrong.py:1: SystemExit: 0"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_line(folder, capsys, monkeypatch, code, said):
    (folder / "my_wrong.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    for name in (f"{folder / 'my_wrong.py'}", "my_wrong"):
        exit_code, _, err = lab(capsys, f"plugins={name}", "phase=list")
        assert (exit_code, len(err.splitlines())) == (2, 1), err
        assert "my_wrong" in err and said in err


@pytest.mark.slow
def test_a_package_is_known_as_a_plugin_too(folder, capsys, monkeypatch):
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").write_text("from my_package import inner\n")
    (folder / "my_layers.py").rename(folder / "my_package" / "inner.py")
    line = breaks(folder / "my_package" / "inner.py", "np.multiply(x, p", "np.multiply(x, q")
    monkeypatch.syspath_prepend(folder)
    code, _, err = lab(capsys, "plugins=my_package", *TRAIN, SCALE)
    assert code == 1
    assert f"error: layer scale: my_package/inner.py:{line}: NameError: name 'q'" in err


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
