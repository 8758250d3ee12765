"""Parts inside a layer from outside: what an annotation says is what is built."""

import json
import logging

import numpy as np
import pytest
from new_process import new_process

from llmlab.checkpoints import load
from llmlab.cli import main
from llmlab.layers import LAYERS, Layer

PARTS = '''
from __future__ import annotations

from typing import TYPE_CHECKING

from llmlab.layers import LAYERS, Layer
from llmlab.layers.initialisations import Initialisation
from llmlab.layers.linear import Linear

if TYPE_CHECKING:
    from collections.abc import Mapping


@LAYERS.register("my_fork")
class Fork(Layer):
    """y = left(x), beside which the others stand."""

    def __init__(self, left: Layer, others: Mapping[str, Layer], init: Initialisation, n: int = 1):
        assert isinstance(left, Layer) and all(isinstance(o, Layer) for o in others.values())
        assert callable(init) and isinstance(n, int)
        self.left, self.others = left, others

    def children(self):
        return {"left": self.left}

    def forward(self, p, x, ctx):
        return self.left.forward(p["left"], x, ctx)

    def backward(self, p, g, dy, cache, ctx):
        return self.left.backward(p["left"], g["left"], dy, cache, ctx)
'''

MAP = '''
from llmlab.layers import LAYERS
from llmlab.layers.linear import Linear


@LAYERS.register("my_map")
class Map(Linear):
    """A map whose output is scaled."""

    def __init__(self, embedding_dim: int, output_dim: int, init="he", scale: float = 1.0):
        super().__init__(embedding_dim, output_dim, bias=False, init=init)
        self.scale = scale

    def forward(self, p, x, ctx):
        y, cache = super().forward(p, x, ctx)
        y *= self.scale
        return y, cache

    def backward(self, p, g, dy, cache, ctx):
        return super().backward(p, g, dy * dy.dtype.type(self.scale), cache, ctx)
'''
BLOCKS = "model.stack.blocks.layers"
TINY = ["experiment=tiny", "phase=tune", "epochs=null", "threads=1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "parts.py").write_text(PARTS)
    (tmp_path / "maps.py").write_text(MAP)
    monkeypatch.chdir(tmp_path)
    new_process(monkeypatch)
    return tmp_path


def lab(capsys, *argv):
    capsys.readouterr()
    code = main(argv)
    return code, capsys.readouterr()


FORK = (
    f"{BLOCKS}.attention.norm={{type: my_fork, left: rms_norm, "
    "others: {a: linear, b: {type: dropout, before: a}}, init: zeros, n: 2.0}"
)


def test_annotations_written_as_text_name_what_is_built(folder, capsys):
    code, seen = lab(capsys, "plugins=parts.py", "phase=summary", FORK)
    assert code == 0, seen.err
    code, seen = lab(capsys, "plugins=parts.py", "phase=list")
    listed = [line.strip() for line in seen.out.splitlines()]
    assert {"left: required (layer)", "others: required (layers by name)"} <= set(listed)
    assert "init: required (initialisation)" in listed


@pytest.mark.every_day(1)
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("left: rms_norm", "left: rms_nrom", "norm.left: unknown layer 'rms_nrom'"),
        ("left: rms_norm", "left: null", "norm.left=null: expected a layer's name"),
        ("a: linear", "a: {type: linear, bais: true}", "norm.others.a.bais: unknown argument"),
        ("before: a", "before: c", "norm.others.b.before=c: no layer of this name"),
        ("init: zeros", "init: zeroes", "norm.init: unknown initialisation 'zeroes'"),
        ("init: zeros, ", "", "norm.init: missing"),
        ("n: 2.0", "n: 2.5", "norm.n=2.5: expected a whole number"),
    ],
)
def test_mistakes_inside_are_named_by_their_keys(folder, capsys, old, new, said):
    code, seen = lab(capsys, "plugins=parts.py", "phase=summary", FORK.replace(old, new))
    assert (code, len(seen.err.splitlines())) == (2, 1), seen.err
    assert f"{BLOCKS}.attention.{said}" in seen.err


@pytest.mark.slow
def test_a_map_of_ones_own_trains_saves_and_resumes(folder, capsys):
    spec = "{type: my_map, scale: 0.5}"
    maps = [f"{BLOCKS}.{name}.layer.linear={spec}" for name in ("attention", "feed_forward")]
    argv = [*TINY, "plugins=maps.py", *maps, "save_every=2", "hydra.run.dir=run"]
    code, seen = lab(capsys, *argv, "steps=4")
    assert code == 0, seen.err
    whole = load(folder / "run" / "checkpoints" / "step-000004.npz")
    assert "params/blocks.0.feed_forward.up.bias" not in whole.arrays
    (folder / "run" / "checkpoints" / "step-000004.npz").unlink()
    code, seen = lab(capsys, "resume=run")
    assert code == 0, seen.err
    again = load(folder / "run" / "checkpoints" / "step-000004.npz")
    start = load(folder / "run" / "checkpoints" / "step-000002.npz").arrays
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    for part in ("attention.qkv", "feed_forward.up", "feed_forward.down"):
        name = f"params/blocks.0.{part}.weight"
        assert (whole.arrays[name] != start[name]).any()
    stored = again.meta["config"]["model"]["stack"]["blocks"]["layers"]["attention"]["layer"]
    assert stored["linear"] == {"type": "my_map", "scale": 0.5}


@pytest.mark.parametrize("kind", ["attention", "feed_forward", "gated_feed_forward"])
def test_the_plain_map_is_what_there_is_without_a_word(kind):
    sizes = {"embedding_dim": 4, "hidden_dim": 6}
    plain, told = (
        LAYERS.build({"type": kind, **more}, "x", **sizes) for more in ({}, {"linear": "linear"})
    )
    for one, other in zip(plain.children().values(), told.children().values(), strict=True):
        assert type(one) is type(other)
        assert {n: p.shape for n, p in one.params().items()} == {
            n: p.shape for n, p in other.params().items()
        }


def test_a_dataset_from_outside_loses_the_defaults_of_another(folder, capsys, caplog):
    (folder / "data.py").write_text(
        "from llmlab.text import DATASETS\n"
        "from llmlab.text.datasets.lines import lines\n"
        '@DATASETS.register("my_lines")\n'
        "def my_lines(tokenizer, max_seq_len, folder: str):\n"
        '    """Lines."""\n'
        "    return lines(folder + '/text.txt', tokenizer, max_seq_len)\n"
    )
    (folder / "text.txt").write_text("the sun warms the sea\nrain falls on the hills\n")
    typed = ["data.pretrain.type=my_lines", "data.pretrain.folder=."]
    argv = ["phase=pretrain", "tokenizer=char", "tokenizer.corpus=text.txt", "steps=2", *typed]
    with caplog.at_level(logging.INFO, "llmlab"):
        code, seen = lab(capsys, "plugins=data.py", "experiment=tiny", *argv, "hydra.run.dir=run")
    assert code == 0, seen.err
    text = (folder / "run" / "log").read_text() + caplog.text + seen.err
    assert "data.pretrain.type=my_lines: doesn't take path, " in text
    config = load(folder / "run" / "checkpoints" / "step-000002.npz").meta["config"]
    assert config["data"]["pretrain"] == {"type": "my_lines", "folder": "."}
    assert json.loads((folder / "run" / "run.json").read_text())["status"] == "finished"


def test_a_layer_may_be_given_to_the_library_as_it_is():
    inner = LAYERS.build("linear", "x", embedding_dim=4)
    assert isinstance(LAYERS.build({"type": "block", "layers": {"a": inner}}, "x"), Layer)
