"""phase=inspect: a page and numbers about what a checkpoint does with a text."""

import json
import math

import numpy as np
import pytest
from command_line import CommandLine

TINY = ["experiment=tiny", "phase=pretrain", "threads=1", "model.num_heads=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with a run that has kept all of its checkpoints."""
    folder = tmp_path_factory.mktemp("inspect")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        from llmlab.cli import main

        assert main([*TINY, "steps=8", "save_every=2", "keep=all", "hydra.run.dir=run"]) == 0
    return folder


@pytest.fixture
def lab(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    return CommandLine(trained, capsys)


def look(lab, *argv):
    """Return what a look has left as JSON."""
    answer = lab("phase=inspect", "checkpoint=run", "inspect.rows=4", *argv)
    assert answer.code == 0, answer.err
    newest = max(lab.folder.glob("runs/inspect/*/inspect.json"), key=lambda p: p.stat().st_mtime_ns)
    return json.loads(newest.read_text())


@pytest.mark.slow
def test_a_prompt_is_read_on_with_the_models_own_answer(lab):
    found = look(lab, "prompt=the sun is warm", "inspect.new_tokens=3", "inspect.history=false")
    size = len(found["tokens"])
    assert len(found["surprise"]) == size - 1
    assert found["loss"] == pytest.approx(np.mean(found["surprise"]), abs=1e-3)
    assert len(found["maps"]) == sum(part["head"] is not None for part in found["heads"])
    assert np.shape(found["maps"])[1:] == (size, size)
    assert np.shape(found["parts"]["share"]) == (len(found["parts"]["names"]), size)
    best = [row[0] for row in found["top"]]
    assert found["lens"]["top"][-1] == [text for text, _ in best]
    assert all(math.isfinite(part["zero"]) and part["zero_error"] >= 0 for part in found["heads"])
    assert "history" not in found


def test_the_kept_checkpoints_are_looked_into(lab):
    found = look(lab, "prompt=the sun is warm", "inspect.new_tokens=0")["history"]
    assert found["steps"] == [0, 2, 4, 6, 8]
    titles = {table["title"]: table for table in found["tables"]}
    likeness = titles["likeness to the last state (linear CKA)"]["rows"]
    assert likeness[-1] == [1.0] * len(likeness[-1])
    assert all(len(table["rows"]) == 5 for table in found["tables"])
    cka = np.array(found["layers"]["cka"])
    assert np.array_equal(cka, cka.T) and np.all(np.diag(cka) == 1)


def test_a_second_prompt_shows_which_place_makes_the_difference(lab):
    keys = ("inspect.new_tokens=0", "inspect.history=false")
    found = look(lab, "prompt=the sun is warm", "inspect.against=the rain is warm", *keys)
    effect = np.array(found["against"]["effect"])
    assert effect.shape == (len(found["against"]["paths"]), len(found["against"]["tokens"]))
    assert effect[-1, -1] == 1
    assert not effect[0, 0]


def test_words_that_the_vocabulary_lacks_are_named_in_the_log_and_on_the_page(lab):
    keys = ("inspect.new_tokens=0", "inspect.history=false")
    found = look(lab, "prompt=the zyzzy is", "inspect.against=the rain qwrt", *keys)
    assert found["notes"][:2] == [
        "The text has words that are not in the model's vocabulary: zyzzy; read as unknown.",
        "inspect.against has words that are not in the model's vocabulary: qwrt; read as unknown.",
    ]
    answer = lab("phase=inspect", "checkpoint=run", "prompt=the zyzzy", "inspect.rows=1", *keys)
    assert "not in the model's vocabulary: zyzzy" in answer.err.splitlines()


@pytest.mark.slow
def test_a_line_of_a_file_is_a_text(lab):
    (lab.folder / "texts.txt").write_text("the sun is warm\nthe rain is cold\n")
    keys = ("inspect.new_tokens=0", "inspect.history=false", "on=texts.txt")
    assert "rain" in look(lab, *keys, "inspect.line=2")["tokens"]
    refused = lab("phase=inspect", "checkpoint=run", "on=texts.txt", "inspect.line=9")
    assert refused.code == 2
    assert refused.err == f"error: inspect.line=9: {lab.folder}/texts.txt has lines 1 to 2\n"


def test_a_state_that_its_run_has_pruned_meanwhile_is_that_after_it(lab, monkeypatch):
    gone = lab.folder / "run/checkpoints/step-000007.npz"  # there when it was looked up
    monkeypatch.setattr("llmlab.runs.lookup.resolve_checkpoint", lambda value: gone)
    found = look(lab, "prompt=the sun", "inspect.new_tokens=0")
    assert found["checkpoint"] == "run/checkpoints/step-000008.npz"
    assert found["measured"].startswith("4 rows") and found["history"]["steps"][-1] == 8


@pytest.mark.every_day(1)
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "prompt: missing; give a text to read"),
        (
            ("prompt=the sun", "inspect.against=the sun is", "inspect.rows=2"),
            "inspect.against: ",
        ),
        (("prompt=the sun", "inspect.against=", "inspect.rows=2"), "inspect.against: 0 token"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(lab, argv, said):
    refused = lab("phase=inspect", "checkpoint=run", *argv)
    assert refused.code == 2
    assert said in refused.err


@pytest.mark.slow
def test_a_network_with_an_adapter_is_watched_and_looked_into(lab):
    """Maps that low-rank ones stand beside are heard and replaced like any other."""
    tune = ["experiment=tiny", "phase=tune", "checkpoint=run", "adapter=lora", "steps=2"]
    tune += ["threads=1", "callbacks.watch.every=1", "hydra.run.dir=tuned"]
    answer = lab(*tune)
    assert answer.code == 0, answer.err
    assert len((lab.folder / "tuned/watch.jsonl").read_text().splitlines()) == 2
    answer = lab("phase=inspect", "checkpoint=tuned", "prompt=the sun", "inspect.history=false")
    assert answer.code == 0, answer.err
