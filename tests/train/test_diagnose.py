"""Steps that are not finite: skipped, counted, shown, never in the parameters; then diagnosed."""

import contextlib
import fcntl
import json
import math
import os
import re
import struct
import sys
import termios

import numpy as np
import pytest
from new_process import new_process
from small_run import KEYS, finished_run, small_lab  # noqa: F401

from llmlab.batch import Batch
from llmlab.checkpoints import load
from llmlab.layers import LAYERS, Stack
from llmlab.optim.adam import Adam
from llmlab.params import Layout
from llmlab.train.callbacks.diagnosis import Diagnosis
from llmlab.train.callbacks.progress_bar import ProgressBar
from llmlab.train.fit import Progress
from llmlab.train.trainer import StepResult, Trainer

# Positions that give NaN in the training steps that a file names, and while these are looked at.
PLUGIN = """
import json, pathlib
import numpy as np
from llmlab.layers import LAYERS
from llmlab.layers.embedding import LearnedPositions as LearnedPositions
from llmlab.optim import OPTIMIZERS
from llmlab.optim.adam import Adam

steps = []

def poisoned(what):
    path = pathlib.Path("poison.json")
    return path.exists() and len(steps) in json.loads(path.read_text()).get(what, [])

@LAYERS.register("poisoned")
class Poisoned(LearnedPositions):
    def forward(self, p, x, ctx):
        if ctx.rng is not None and type(x) is np.ndarray:  # not the pass that measures memory
            steps.append(1)
        y, cache = super().forward(p, x, ctx)
        if poisoned("forward"):
            y = np.full_like(y, np.nan)
        return y, cache

    def backward(self, p, g, dy, cache, ctx):
        dx = super().backward(p, g, dy, cache, ctx)
        return np.full_like(dx, np.inf) if poisoned("backward") else dx

@OPTIMIZERS.register("poisonous")
class Poisonous(Adam):
    def update(self, params, *args, step, **options):
        super().update(params, *args, step=step, **options)
        if step == 3:
            params.flat[0] = np.nan
"""
POISONED = [
    *KEYS,
    "plugins=poison.py",
    "model.stack.positions.type=poisoned",
    "data.pretrain.val_fraction=0.2",
    "batch_size=4",
    "steps=8",
    "save_every=1",
    "eval_every=1",
    "keep=99",
    "hydra.run.dir=new",
]


@pytest.fixture
def poison(lab, monkeypatch):
    """Return a function that says in which steps what is not finite."""
    (lab.folder / "poison.py").write_text(PLUGIN)
    new_process(monkeypatch)

    def write(**steps):
        (lab.folder / "poison.json").write_text(json.dumps(steps))

    return write


def rows(lab):
    text = (lab.folder / "new" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def states(lab):
    """Return the checkpoints by step; loading refuses NaN in parameters."""
    paths = sorted((lab.folder / "new" / "checkpoints").glob("step-*.npz"))
    return {state.meta["step"]: state for state in map(load, paths)}


def record(lab):
    return json.loads((lab.folder / "new" / "run.json").read_text())


@pytest.mark.every_day(1)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_bad_step_is_skipped_counted_and_shown(lab, poison, threads):
    poison(forward=[3], backward=[6])
    answer = lab(*POISONED, f"threads={threads}")
    assert answer.code == 0, answer.err
    told = [line for line in answer.err.splitlines() if "skipped" in line]
    assert len(told) == 2
    assert told[0].startswith("step 3 skipped: loss nan, gradient norm nan; the parameters")
    assert re.match(r"step 6 skipped: loss \d\.\d+, gradient norm (inf|nan);", told[1])
    assert [row["skipped"] for row in rows(lab)] == [0, 0, 1, 1, 1, 2, 2, 2]
    assert [row["loss"] is None for row in rows(lab)] == [n in (3, 6) for n in range(1, 9)]
    found = states(lab)
    for bad in (3, 6):
        for name, array in found[bad].arrays.items():
            assert array.tobytes() == found[bad - 1].arrays[name].tobytes(), name
    assert found[8].meta["updates"] == 6
    assert all(np.isfinite(array).all() for array in found[8].arrays.values())
    # Rows 24 and 25: neither best nor in any figure.
    assert rows(lab)[2]["val_loss"] is None
    assert found[8].meta["best_step"] not in (3, None)
    assert math.isfinite(found[8].meta["best"])
    results = record(lab)["results"]
    assert results["skipped"] == 2
    assert math.isfinite(results["loss"]) and math.isfinite(results["val_loss"])
    losses = [row["loss"] for row in rows(lab)[-6:] if row["loss"] is not None]
    assert min(losses) <= results["loss"] <= max(losses)


@pytest.mark.slow
def test_many_in_a_row_stop_the_run_and_are_diagnosed(lab, poison):
    poison(forward=[3, 4, 5, 6, 7, 8])
    answer = lab(*POISONED, "max_bad_steps=3")
    assert answer.code == 1
    assert [line for line in answer.problems if line.startswith("error: ")] == [
        "error: loss or gradient was not finite in 3 steps in a row, the last at step 5; the "
        "parameters were not changed. Try a lower lr (now 0.0005) or a lower clip_norm"
    ]
    assert answer.problems[-1] == "continue with: python -m llmlab resume=new"
    assert "Traceback" not in answer.err
    run = lab.folder / "new"
    found = json.loads((run / "diagnostics.json").read_text())
    assert (found["layer"], found["step"], found["loss"]) == ("positions", 5, "nan")
    assert "tokens.weight" in found["gradients"]
    assert str(run / "diagnostics.json") in answer.err
    with np.load(run / "diagnostics.npz", allow_pickle=False) as batch:
        assert set(batch) == {"inputs.0", "targets.0", "weights.0"}
        assert batch["inputs.0"].shape == batch["targets.0"].shape
        assert len(batch["inputs.0"]) == 4
    assert record(lab)["status"] == "failed"
    assert max(states(lab)) >= 4
    # What was advised works, once its cause is gone.
    (lab.folder / "poison.json").unlink()
    assert lab("resume=new").code == 0
    assert max(states(lab)) == 8


def test_a_bad_backward_pass_is_told_from_a_bad_layer(lab, poison):
    poison(backward=[2, 3])
    answer = lab(*POISONED, "max_bad_steps=2")
    assert answer.code == 1
    found = json.loads((lab.folder / "new" / "diagnostics.json").read_text())
    assert found["layer"] is None
    assert found["gradients"] == ["tokens.weight"]
    assert "none, the backward pass" in answer.err


@pytest.mark.every_day(1)
@pytest.mark.parametrize("save_every", [1, 100])
def test_an_optimizer_that_makes_nan_never_gets_it_into_a_checkpoint(lab, poison, save_every):
    answer = lab(*POISONED, "optimizer.type=poisonous", f"save_every={save_every}", "steps=20")
    assert answer.code == 1
    assert "NaN" in answer.err or "not finite" in answer.err
    assert max(states(lab)) < 3  # loads, so it is finite


def test_the_figures_shown_leave_skipped_steps_out():
    shown = ProgressBar("tune", 9, show_progress=False)
    shown.on_start(Progress())
    for loss in (2.0, math.nan, math.inf, 2.0):
        skipped = not math.isfinite(loss)
        result = StepResult(loss, loss, 0.1, 5.0, skipped)
        shown.on_step(Progress(step=1, skipped=int(skipped)), result, {})
    text = shown._text(Progress(skipped=2), 1e9)
    assert "loss 2.000" in text and text.endswith("2 skipped")
    shown.on_end(Progress())


def test_loss_perplexity_and_speed_fit_into_80_columns(monkeypatch):
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        shown = ProgressBar("pretrain", 20_000)
        shown.on_start(Progress())
        shown.on_step(Progress(step=10_000), StepResult(6.3, 10_000, 0.1, 5.0, False), {})
        shown.on_end(Progress(step=10_000))
    told = b""
    with contextlib.suppress(OSError):  # at the end: the other side is closed
        while piece := os.read(master, 4096):  # which may come in pieces
            told += piece
    os.close(master)
    last = told.decode().strip().split("\r")[-1]
    assert re.search(r"loss 6\.300, perplexity 544\.6, [\d,]+ tokens/s$", last)
    assert len(last) <= 80


def kept(folder, batch):
    stack = Stack({"tokens": LAYERS.build("token_embedding", "x", vocab_size=5, embedding_dim=2)})
    with Trainer(stack, Layout(stack).init(0), Adam(), lr=1e-3) as trainer:
        trainer.batches = [batch]
        progress = Progress()
        progress.bad = 1
        Diagnosis(trainer, folder, 1).on_step(progress, StepResult(math.nan, 1, 1, 1, True), {})
    with np.load(folder / "diagnostics.npz") as arrays:
        return json.loads((folder / "diagnostics.json").read_text())["layer"], dict(arrays)


def test_a_packed_batch_is_kept_whole(tmp_path):
    ids = np.array([[1, 2, 3]])
    segments, positions = np.array([[0, 0, 1]]), np.array([[0, 1, 0]])
    batch = Batch(ids, ids, np.ones((1, 3), np.float32), segments, positions)
    layer, arrays = kept(tmp_path, batch)
    assert layer is None
    assert (arrays["segments.0"] == segments).all() and (arrays["positions.0"] == positions).all()


def test_a_batch_too_large_to_look_at_is_kept_all_the_same(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr("llmlab.train.callbacks.diagnosis.first_bad_layer", full)
    ids = np.array([[1, 2, 3]])
    layer, arrays = kept(tmp_path, Batch(ids, ids, np.ones((1, 3), np.float32)))
    assert "not enough memory" in layer
    assert set(arrays) == {"inputs.0", "targets.0", "weights.0"}
