"""Phase `full`: its chat begins when the run is over, and its weights may come from elsewhere."""

import io
import json
import sys

import pytest
from small_run import SIZES, finished_run, small_lab  # noqa: F401

from llmlab.checkpoints import load
from llmlab.errors import Stopped

KEYS = ["data.pretrain.path=good.txt", "data.tune.path=chats.txt", "threads=1", *SIZES]
KEYS += ["steps=1", "hydra.run.dir=both"]


@pytest.fixture(autouse=True)
def chats(lab):
    (lab.folder / "chats.txt").write_text("User: a bird sees ? Assistant: the sun .\n" * 4)


class Keyboard(io.StringIO):
    """A terminal at which Ctrl-C is typed."""

    def isatty(self):
        return True


def test_leaving_the_chat_stops_no_run(lab, monkeypatch):
    run, seen = lab.folder / "both", {}

    def read(self):
        seen["record"] = json.loads((run / "run.json").read_text())
        raise Stopped("left the chat", 130)

    monkeypatch.setattr(sys, "stdin", Keyboard())
    monkeypatch.setattr("llmlab.phases.chat.terminal.Typed.read", read)
    answer = lab(*KEYS)
    record = json.loads((run / "run.json").read_text())
    assert answer.code == 130
    assert record["status"] == "finished" and record["results"]["steps"] == 1
    assert seen["record"] == record  # all was done when the chat began
    assert "run: both\n" in answer.out
    assert answer.err.splitlines()[-1] == "left the chat"
    assert "continue with" not in answer.err


def test_tuning_begins_with_the_best_where_patience_ended_pre_training(lab):
    keys = ["steps=9", "patience=2", "eval_every=1", "save_every=9", "lr=3", "chat=false"]
    assert lab(*KEYS, *keys, "data.pretrain.val_fraction=0.3").code == 0
    results = json.loads((lab.folder / "both/run.json").read_text())["results"]
    best = results["pretrain_best_step"]
    assert results["pretrain_steps"] == best + 2 < 9
    first = load(lab.folder / f"both/pretrain/checkpoints/step-{best:06d}.npz").arrays
    assert_same_parameters(load(lab.folder / "both/tune/checkpoints/step-000000.npz"), first)


def test_pre_training_begins_with_the_weights_of_checkpoint(lab):
    assert lab(*KEYS, "checkpoint=run", "lr=1e-30", "chat=false").code == 0
    given = load(lab.folder / "run/checkpoints/step-000002.npz").arrays
    first = load(lab.folder / "both/pretrain/checkpoints/step-000000.npz")
    assert_same_parameters(first, given)


def assert_same_parameters(checkpoint, arrays):
    for name, array in checkpoint.arrays.items():
        if name.startswith("params/"):
            assert array.tobytes() == arrays[name].tobytes(), name
