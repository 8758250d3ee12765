"""Adding a layer: a file outside the package, a decorator, a line of configuration."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from contract import CHECKS, Case

from llmlab.layers import LAYERS

LAYER = '''
"""A layer of a user's own: a learned scale for each channel."""

import numpy as np

from llmlab.layers import LAYERS, Layer
from llmlab.params import Param


@LAYERS.register("channel_scale")
class ChannelScale(Layer):
    """y = weight · x, each channel by itself."""

    def __init__(self, embedding_dim: int, start: float = 1.0):
        self.embedding_dim, self.start = embedding_dim, start

    def params(self):
        init = lambda rng, shape: np.full(shape, self.start)
        return {"weight": Param((self.embedding_dim,), init, "undecayed")}

    def forward(self, p, x, ctx):
        y = ctx.empty(x.shape)
        np.multiply(x, p["weight"], out=y)
        return y, x

    def backward(self, p, g, dy, cache, ctx):
        dx = ctx.empty(dy.shape)
        np.multiply(dy, p["weight"], out=dx)
        with ctx.scratch():
            part = ctx.empty(dy.shape)
            np.multiply(dy, cache, out=part)
            ctx.add_product(ctx.ones(len(dy)), part, g["weight"])
        return dx

    def elements(self, batch, time):
        return 2 * batch * time * self.embedding_dim
'''


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "my_layers.py"
    path.write_text(LAYER, encoding="utf-8")
    return path


def test_a_layer_of_ones_own_keeps_the_contract(plugin, monkeypatch):
    monkeypatch.setattr(LAYERS, "_factories", dict(LAYERS._factories))  # undone afterwards
    spec = importlib.util.spec_from_file_location("my_layers", plugin)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    norm = {"type": "channel_scale", "start": 0.5}
    for specs in ([norm], [{"type": "post_norm", "layer": "linear", "norm": norm}]):
        for check in CHECKS:
            check(Case(specs))


def test_a_layer_of_ones_own_trains_from_the_command_line(plugin):
    def llmlab(*words):
        # The plug-in is no part of the package, nor does the command run beside it by chance.
        folder = plugin.parent / "elsewhere"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "llmlab", *words, "plugins=../my_layers.py"],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return folder, done.stdout

    sizes = ("model.num_blocks=1", "model.embedding_dim=16", "model.hidden_dim=16")
    norm = "model.stack.2.layers.0.norm={type: channel_scale, start: 0.5}"
    folder, _ = llmlab("phase=pretrain", "steps=2", "threads=1", *sizes, norm)
    (run,) = (folder / "runs" / "pretrain").glob("*-*")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    with np.load(run / "checkpoints" / "step-000002.npz") as arrays:
        weight = arrays["params/blocks.0.attention.norm.weight"]
    assert weight.shape == (16,) and 0 < np.abs(weight - 0.5).max() < 0.1
    # The checkpoint names the layer; with the plug-in it can be used.
    llmlab("phase=generate", "prompt=Hello", "max_new_tokens=2")
