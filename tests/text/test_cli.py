"""Text of one's own through the command line: training, measuring, bad input."""

import json

import numpy as np
import pytest

from llmlab.cli import main

pytestmark = pytest.mark.slow

TINY = ["experiment=tiny", "threads=1", "data=text", "template=none", "model.max_seq_len=32"]
SHIPPED = [*TINY, "tokenizer=byte", "phase=pretrain", "epochs=null", "steps=6"]
BYTES = [*SHIPPED, "data.pretrain.path=small.txt"]
TEXT = "It is a small text that says little, and says it again. " * 40


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.txt").write_text(TEXT)
    return tmp_path


def rows(folder):
    (run,) = folder.iterdir()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return run, [json.loads(line) for line in lines]


def test_shipped_text_is_trained_on_and_measured(inside, capsys):
    assert main(SHIPPED) == 0
    _, metrics = rows(inside / "runs/pretrain")
    assert len(metrics) == 6 and metrics[-1]["loss"] < metrics[0]["loss"]
    assert main(["phase=evaluate", "data=text"]) == 0
    out = capsys.readouterr().out
    assert "the part for validation: 300 windows, 9,592 target tokens" in out
    table = {
        line[:13].strip(): [float(value) for value in line[13:].split()]
        for line in out.splitlines()
        if "-gram" in line or line.startswith(("this model", "zlib", "bz2", "lzma"))
    }
    assert len(table) == 10
    assert table["this model"][0] == pytest.approx(metrics[-1]["val_loss"], abs=1e-4)
    assert table["5-gram"][0] < table["1-gram"][0] < table["this model"][0]
    # A byte is a token, and here a character.
    assert (
        table["5-gram"][1]
        == table["5-gram"][2]
        == pytest.approx(table["5-gram"][0] / np.log(2), abs=1e-3)
    )


def test_a_resumed_run_is_the_unbroken_one(inside):
    options = ["data.pretrain.windows=shuffled", "eval_every=2", "batch_size=3"]
    assert main([*BYTES, *options, "hydra.run.dir=whole/run"]) == 0
    assert main([*BYTES, *options, "hydra.run.dir=parts/run", "steps=4"]) == 0
    assert main(["resume=parts/run", "steps=6"]) == 0
    whole, parts = (rows(inside / name)[1] for name in ("whole", "parts"))
    assert parts == whole


@pytest.mark.slow
def test_measuring_on_another_text(inside, capsys):
    assert main(BYTES) == 0
    (inside / "own.txt").write_text("This is some other text. " * 20)
    assert main(["phase=evaluate", "on=own.txt"]) == 0
    out = capsys.readouterr().out
    assert "16 windows, 499 target tokens" in out
    # What the n-grams count is the run's own training text, which has these words.
    table = {line[:13].strip(): line[13:].split() for line in out.splitlines()}
    assert float(table["1-gram"][0]) < float(table["this model"][0]) and len(table["lzma"]) == 3
    (inside / "small.txt").write_text(TEXT + "More of it.")
    assert main(["phase=evaluate", "on=own.txt"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("n-grams      none: ") and "small.txt is not the text that" in said
    (inside / "small.txt").unlink()
    assert main(["phase=evaluate", "on=own.txt"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("n-grams      none: the text that it was trained on can't be read")


@pytest.mark.slow
def test_a_text_measured_on_itself_has_no_n_grams_beside_it(inside, capsys):
    assert main([*BYTES, "data.pretrain.val_fraction=0"]) == 0
    capsys.readouterr()
    assert main(["phase=evaluate"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "n-grams      none: data.pretrain keeps no part for validation"


@pytest.mark.slow
def test_a_run_knows_its_own_text(inside, capsys):
    assert main([*BYTES, "data.pretrain.val_fraction=0.2"]) == 0
    capsys.readouterr()
    assert main(["phase=evaluate"]) == 0
    out = capsys.readouterr().out
    assert "the part for validation: 14 windows, 447 target tokens" in out and "5-gram" in out


@pytest.mark.slow
def test_an_older_state_goes_on_with_the_data_that_were_typed(inside):
    options = ["data.pretrain.windows=shuffled", "save_every=2", "keep=9"]
    assert main([*BYTES, *options, "hydra.run.dir=whole/run"]) == 0
    older = inside / "whole/run/checkpoints/step-000004.npz"
    assert main([f"resume={older}"]) == 0
    assert rows(inside / "runs/pretrain")[1][-2:] == rows(inside / "whole")[1][-2:]


@pytest.mark.slow
def test_sliding_windows_see_more(inside, capsys):
    assert main(BYTES) == 0
    options = ["data=text", "data.pretrain.path=small.txt", "data.pretrain.stride=8"]
    assert main(["phase=evaluate", *options]) == 0
    assert "25 windows, 223 target tokens" in capsys.readouterr().out


def test_messages_are_tuned_on_and_recalled(inside, capsys):
    chats = [
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
        [("system", "s"), ("user", "e"), ("assistant", "f")],
    ]
    lines = [
        json.dumps({"messages": [{"role": r, "content": c} for r, c in chat]}) for chat in chats
    ]
    (inside / "chats.jsonl").write_text("\n".join(lines))
    arguments = ["experiment=tiny", "threads=1", "phase=tune", "tokenizer=byte", "template=chatml"]
    arguments += ["data.tune.path=chats.jsonl", "data.tune.answer_only=true"]
    arguments += ["model.max_seq_len=128", "epochs=150", "lr=5e-3", "data.tune.packed=true"]
    assert main(arguments) == 0
    assert main(["phase=evaluate", "data.tune.path=chats.jsonl"]) == 0
    assert "recall       3 of 3 answers word for word" in capsys.readouterr().out


# Bad input


def refused(capsys, code, *arguments):
    assert main(list(arguments)) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.slow
def test_an_endless_line(inside, capsys, monkeypatch):  # 17
    monkeypatch.setattr("llmlab.text.files.MAX_LINE", 2**16)
    (inside / "line.txt").write_bytes(b"word " * 2**15)
    message = refused(
        capsys,
        3,
        "experiment=tiny",
        "phase=pretrain",
        "data.pretrain.path=line.txt",
        "tokenizer=byte",
    )
    assert f"{inside}/line.txt:1: a line of more than" in message and "type=text" in message
    assert main([*SHIPPED, "data.pretrain.path=line.txt"]) == 0


@pytest.mark.parametrize("id", [257, -1])
def test_ids_outside_the_vocabulary(inside, capsys, id):  # 19
    np.save(inside / "ids.npy", np.array([1, 2, id, 3] * 50))
    message = refused(
        capsys,
        3,
        "experiment=tiny",
        "phase=pretrain",
        "tokenizer=byte",
        "data=tokens",
        "data.pretrain.path=ids.npy",
    )
    assert f"ids.npy: token id {id} at position 2 is outside the vocabulary of 257" in message


def test_chats_without_answers(inside, capsys):  # 20
    whole = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    half = {"messages": [{"role": "user", "content": "a"}]}
    arguments = ["experiment=tiny", "threads=1", "phase=tune", "tokenizer=byte", "epochs=1"]
    arguments += ["data.tune.path=chats.jsonl", "data.tune.answer_only=true"]
    (inside / "chats.jsonl").write_text(f"{json.dumps(whole)}\n{json.dumps(half)}\n")
    assert main(arguments) == 0
    assert "1 samples without a target, dropped" in capsys.readouterr().err
    (inside / "chats.jsonl").write_text(json.dumps(half))
    assert "no target to learn from in 1 texts" in refused(capsys, 3, *arguments)


@pytest.mark.parametrize(
    "argument, message",
    [
        ("data.pretrain.path=empty.txt", "empty.txt: 0 tokens; at least 2 are needed"),
        ("data.pretrain.val_fraction=1e-6", "1 for validation; at least 2 each are needed"),
    ],
)
def test_text_that_is_none(inside, capsys, argument, message):
    if "empty" in argument:
        (inside / "empty.txt").write_text("")
    assert message in refused(capsys, 3, *SHIPPED, argument)


@pytest.mark.slow
def test_a_template_without_its_tokens(inside, capsys):
    assert main(BYTES) == 0
    capsys.readouterr()
    message = refused(capsys, 2, "phase=tune", "checkpoint=latest", "template=chatml")
    assert "no special token '<|im_start|>', which the template needs" in message
