"""Every phase through the command line, on one tiny run."""

import io
import json
import re
from contextlib import redirect_stdout

import pytest

from llmlab.cli import main
from llmlab.cli.places import conf_folder
from llmlab.cli.start import compose
from llmlab.phases import summary
from llmlab.phases.list import lines

TINY = ["experiment=tiny", "epochs=2", "threads=1"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Return a folder in which `python -m llmlab` has run once, small; what it printed is there."""
    folder, out = tmp_path_factory.mktemp("lab"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.chdir(folder)
        assert main(["chat=false", *TINY]) == 0
    (folder / "printed").write_text(out.getvalue())
    return folder


@pytest.fixture(autouse=True)
def inside(lab, monkeypatch):
    monkeypatch.chdir(lab)


def test_full_leaves_both_stages_with_metrics_checkpoints_and_pictures(lab):
    (run,) = (lab / "runs/full").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    for stage in ("pretrain", "tune"):
        lines = (run / stage / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        keys = ["stage", "step", "epoch", "tokens", "loss", "lr", "grad_norm", "skipped"]
        assert list(rows[-1]) == keys
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
        assert rows[-1]["epoch"] == 2
        assert len(list((run / stage / "checkpoints").glob("*.npz"))) >= 2
        assert (run / stage / "report/loss.svg").read_text().startswith("<svg")


def test_full_prints_the_stack_and_the_answers_before_and_after(lab):
    out = (lab / "printed").read_text()
    order = ("parameters", "before training", "How do mountains form?", "after training", "run: ")
    places = [out.index(text) for text in order]
    assert places == sorted(places)


def test_evaluate_prints_loss_floor_and_recall(capsys):
    assert main(["phase=evaluate"]) == 0
    out = capsys.readouterr().out
    loss, floor, excess = (
        float(re.search(rf"^{name}\s+(-?[\d.]+)", out, re.MULTILINE)[1])
        for name in ("loss", "floor", "excess")
    )
    assert excess == pytest.approx(loss - floor, abs=2e-4)
    assert re.search(r"^recall\s+\d+ of 53", out, re.MULTILINE)


@pytest.mark.slow
def test_evaluate_takes_another_stage_and_a_file(lab, capsys):
    assert main(["phase=evaluate", "on=pretrain"]) == 0
    assert "25 samples" in capsys.readouterr().out
    own = [f"User: Question {n}? Assistant: Answer {n}." for n in range(4)]
    (lab / "own.json").write_text(json.dumps(own))
    assert main(["phase=evaluate", "on=own.json"]) == 0
    assert "4 samples" in capsys.readouterr().out


def test_generate_prints_the_answer_alone(capsys):
    assert main(["phase=generate", "prompt=What causes zebras?", "max_new_tokens=5"]) == 0
    seen = capsys.readouterr()
    assert len(seen.out.splitlines()) == 1
    assert "zebras" in seen.err


def test_summary_counts_the_parameters_of_the_default_network(capsys):
    assert main(["phase=summary"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    total = int(re.search(r"([\d,]+) parameters", out)[1].replace(",", ""))
    # name (B, T, width) parameters: the fifth word
    layers = [row for row in rows if len(row) > 4 and row[1].startswith("(")]
    assert sum(int(row[4].replace(",", "")) for row in layers) == total
    assert "memory of a training step" in out


@pytest.mark.every_day(1)
@pytest.mark.parametrize("name", sorted(p.stem for p in (conf_folder() / "model").glob("*.yaml")))
def test_summary_takes_every_preset_at_sizes_that_no_machine_has(name, monkeypatch, capsys):
    """Also when a training step wouldn't fit; nothing is allocated for its parameters."""
    monkeypatch.setattr("llmlab.resources.available_memory", lambda: 2**20)
    monkeypatch.setattr("llmlab.phases.summary.available_memory", lambda: 2**20)
    monkeypatch.setattr("llmlab.params.aligned", None)  # what every arena is made of
    sizes = ["model.embedding_dim=12288", "model.hidden_dim=49152", "batch_size=1000"]
    found = summary.run(compose("phase=summary", f"model={name}", *sizes))
    assert found["parameters"] > 10**9
    assert "more than the 1.0 MiB that are free\n" in capsys.readouterr().out


@pytest.mark.slow
def test_summary_and_profile_describe_a_checkpoint(capsys):
    assert main(["phase=summary", "checkpoint=latest"]) == 0
    assert "(8, 80, 32)" in capsys.readouterr().out
    assert main(["phase=profile", "checkpoint=latest"]) == 0
    out = capsys.readouterr().out
    assert "blocks.0.attention" in out
    assert re.search(r"^product\s+\d+", out, re.MULTILINE)


def test_phases_that_use_a_model_leave_no_folder(lab):
    before = sorted(path for path in lab.rglob("*") if "runs" in path.parts)
    assert main(["phase=generate", "prompt=Hello", "max_new_tokens=1"]) == 0
    assert main(["phase=list"]) == 0
    assert sorted(path for path in lab.rglob("*") if "runs" in path.parts) == before
    assert not (lab / "outputs").exists()


def test_a_part_of_the_list(capsys):
    from llmlab.cli import main

    def listed(*words):
        code = main(["phase=list", *words])
        return code, capsys.readouterr()

    code, seen = listed("layers")
    assert code == 0
    assert seen.out.startswith("layers (type: arguments)\n")
    assert "\noptimizers" not in seen.out and "  attention " in seen.out
    assert "\n".join(lines(["layer"])) == seen.out.rstrip("\n")
    rope = lines(["rope"])
    names = [line.split()[0] for line in rope if line.startswith("  r")]
    assert names == ["rope"] and rope[0].startswith("positions")
    both = "\n".join(lines(["rope", "adam"]))
    assert "  rope " in both and "  adamw " in both and "\n\noptimizers" in both
    code, seen = listed("ropes")
    assert code == 2
    assert "phase=list ropes: nothing has this name (did you mean 'rope'?)" in seen.err
    assert len(lines()) > 200


def test_the_word_help_shows_help(capsys):
    from llmlab.cli import main

    assert main(["help"]) == 0
    word = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert word == capsys.readouterr().out
