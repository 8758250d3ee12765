"""A run of format 2, whose layers stood in lists, goes on as if nothing had changed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from llmlab.checkpoints import key_of_today, load, peek
from llmlab.cli import main

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run-format-2"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The run, two of its four steps done, in a place of its own."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    shutil.copytree(FIXTURE, folder)
    for name in ("run.json", "config.yaml"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("@RUN@", str(folder)))
    return folder


def test_it_goes_on_to_the_same_parameters(run, capsys):
    assert main([f"resume={run}"]) == 0, capsys.readouterr().err
    found, wanted = load(run / "checkpoints" / "step-000004.npz"), load(run / "whole.npz")
    assert found.arrays.keys() == wanted.arrays.keys()
    for name, array in wanted.arrays.items():  # another machine may round otherwise
        np.testing.assert_allclose(found.arrays[name], array, rtol=1e-4, atol=1e-7)
    assert found.meta["config"]["model"] == wanted.meta["config"]["model"]
    assert found.meta["step"] == 4
    overrides = json.loads((run / "run.json").read_text())["overrides"]
    assert "++model.stack.blocks.layers.attention.layer.window=8" in overrides
    assert "++model.stack.blocks.layers.feed_forward.norm.eps=1e-4" in overrides


def test_a_run_branches_from_its_checkpoint(run, capsys):
    state = run / "checkpoints" / "step-000002.npz"
    shutil.copy(run / "whole.npz", run / "checkpoints" / "step-000004.npz")
    layer = "model.stack.blocks.layers.attention.layer"
    argv = [f"resume={state}", "steps=3", f"{layer}.window=8"]
    assert main(argv) == 0, capsys.readouterr().err
    (branch,) = run.parent.glob("runs/pretrain/*/checkpoints/step-000003.npz")
    assert load(branch).meta["step"] == 3


def test_its_layers_have_names_when_it_is_read(run):
    path = run / "checkpoints" / "step-000002.npz"
    model = load(path).meta["config"]["model"]
    assert peek(path)["config"]["model"] == model
    assert not {"attention", "feed_forward"} & set(model)
    assert model["stack"]["order"] == ["tokens", "blocks", "norm", "output"]
    blocks = model["stack"]["blocks"]["layers"]
    assert blocks["order"] == ["attention", "feed_forward"]
    assert blocks["attention"]["layer"]["window"] == 8 and "name" not in blocks["attention"]
    with np.load(path) as stored:
        assert json.loads(stored["manifest"].tobytes())["format"] == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.stack.1.layers.0.norm.eps", "model.stack.blocks.layers.attention.norm.eps"),
        ("model.stack.0.init.std", "model.stack.tokens.init.std"),
        ("model.stack.2.eps", "model.stack.rms_norm.eps"),
        ("model.stack.7.eps", "model.stack.7.eps"),
        ("model.attention.window", "model.stack.blocks.layers.attention.layer.window"),
        ("model.feed_forward", "model.stack.blocks.layers.feed_forward.layer"),
        ("model.stack.blocks.repeat", "model.stack.blocks.repeat"),
        ("model.num_heads", "model.num_heads"),
    ],
)
def test_old_keys_are_todays(old, new):
    layers = [{"name": "attention", "norm": {"eps": 1}}]
    stack = [{"name": "tokens"}, {"name": "blocks", "layers": layers}, {"type": "rms_norm"}]
    assert key_of_today(old, {"stack": stack}) == new
