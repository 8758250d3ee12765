"""What lies in runs/: listed, compared, cleaned; and the best of a sweep taken on."""

import json
import re

import pytest
from small_run import KEYS, finished_run, small_lab  # noqa: F401 - fixtures

from llmlab.errors import ConfigError
from llmlab.report.terminal import interval_lines
from llmlab.runs.catalogue import Entry, catalogue, matching, needed_by_others
from llmlab.runs.lookup import resolve_checkpoint

pytestmark = pytest.mark.slow

KEPT = "data.pretrain.val_fraction=0.3"


@pytest.fixture(name="study")
def swept(lab, monkeypatch):
    """Return a lab with a sweep of four short runs, and one alone that began from one of them."""
    monkeypatch.setattr("hydra.plugins.sweeper.Sweeper.validate_batch_is_legal", lambda *_: None)
    monkeypatch.setattr("llmlab.report.study_page.can_draw", lambda: False)
    sweep = ["lr=1e-3,1e-1", "seed=1,2", "steps=4", "log_every=10", "hydra.sweep.dir=runs/sweeps/s"]
    answer = lab("-m", *KEYS, KEPT, *sweep)
    assert answer.code == 0, answer.err
    assert (
        lab(*KEYS, "checkpoint=runs/sweeps/s", "steps=1", "hydra.run.dir=runs/pretrain/r").code == 0
    )
    return lab


@pytest.mark.slow
def test_results_do_not_hang_on_how_often_metrics_are_written(study):
    text = (study.folder / "runs/sweeps/s/results.csv").read_text()
    head, *rows = [line.split(",") for line in text.splitlines()]
    assert {"loss", "val_loss", "best_val_loss", "steps", "tokens", "flops"} <= set(head)
    assert [row[head.index("steps")] for row in rows] == ["4"] * 4
    assert all(float(row[head.index("loss")]) > 0 for row in rows)
    losses = [float(row[head.index("val_loss")]) for row in rows]
    assert losses == sorted(losses)
    results = [
        json.loads(path.read_text()) for path in study.folder.glob("runs/sweeps/s/*/result.json")
    ]
    assert len({r["validation_sha256"] for r in results if r["seed"] == 1}) == 1


@pytest.mark.slow
def test_a_sweep_hands_on_its_best_job(study, caplog):
    first = next(iter((study.folder / "runs/sweeps/s/results.csv").read_text().splitlines()[1:]))
    best = study.folder / "runs/sweeps/s" / first.split(",")[1]
    assert resolve_checkpoint("runs/sweeps/s").parent.parent == best
    assert resolve_checkpoint("s").parent.parent == best
    record = json.loads((study.folder / "runs/pretrain/r/run.json").read_text())
    assert record["parent"].startswith(str(best))
    (study.folder / "runs/pretrain/r").rename(study.folder / "elsewhere")
    answer = study("phase=score", "prompt=the sun", "checkpoint=best")
    assert answer.code == 0
    assert "rank 1 of its sweep by val_loss at the last validation" in caplog.text
    result = json.loads((best / "result.json").read_text())
    assert f"(best_val_loss {result['best_val_loss']:.4f}; rank 1" in caplog.text


def test_runs_are_listed_and_chosen(study):
    out = study("phase=runs").out
    assert re.search(r"pretrain +\S+ +val_loss \S+ +finished, 4 jobs .* sweeps/s", out)
    assert "pretrain/r" in out
    assert "pretrain/r" not in study("phase=runs", "runs.where=val_loss<1e9").out
    assert "no runs" in study("phase=runs", "runs.where=status=failed").out
    answer = study("phase=runs", "runs.where=stats=failed")
    assert (answer.code, "no run has a stats" in answer.err) == (2, True)


@pytest.mark.slow
def test_clean_removes_when_told_and_never_a_parent(study):
    told = study("phase=clean", "clean.where=phase=pretrain steps=4", "clean.remove=true")
    assert "stays, since runs/pretrain/r began from it" in told.out
    assert (study.folder / "runs/sweeps/s").is_dir()
    shown = study("phase=clean", "clean.where=steps=1")
    assert "nothing was removed; this frees" in shown.out
    assert (study.folder / "runs/pretrain/r").is_dir()
    assert study("phase=clean", "clean.where=steps=1", "clean.remove=true").code == 0
    assert not (study.folder / "runs/pretrain/r").exists()
    # Nothing needs the sweep any more.
    assert study("phase=clean", "clean.where=steps=4", "clean.remove=true").code == 0
    assert catalogue(study.folder / "runs") == []


def test_what_another_began_from_is_found(tmp_path):
    old = Entry(tmp_path / "a", {"x": 1}, 1, ())
    new = Entry(tmp_path / "b", {"x": "t"}, 1, (tmp_path / "a/checkpoints/step-000001.npz",))
    assert needed_by_others(old, [old, new]) is new
    assert needed_by_others(new, [old, new]) is None
    assert matching([old, new], "x>0", "runs.where") == [old]  # text is no number
    assert matching([old, new], None, "runs.where") == [old, new]
    with pytest.raises(
        ConfigError, match=r"runs\.where=x: expected conditions such as status=failed"
    ):
        matching([old], "x", "runs.where")
    with pytest.raises(
        ConfigError, match=r"runs.where=val_los<2: no run has a val_los \(did you mean"
    ):
        matching([Entry(tmp_path, {"val_loss": 1.0}, 1, ())], "val_los<2", "runs.where")


def test_runs_and_arms_are_compared(study):
    answer = study(
        "phase=compare", "compare.runs=[s:lr=0.1,s:lr=0.001,runs/pretrain/r]", "metric=loss"
    )
    assert answer.code == 0, answer.err
    assert re.search(r"^lr +0\.\d+ +0\.\d+", answer.out, re.MULTILINE)
    # The run alone kept no text for validation, so it trained on more; it has another seed, too.
    assert "their training losses aren't alike" in answer.out
    (folder,) = study.folder.glob("runs/compare/*")
    assert len((folder / "results.csv").read_text().splitlines()) == 6
    answer = study("phase=compare", "compare.runs=[s]")
    assert "lr=0.1" in answer.out and "by val_loss" in answer.out
    answer = study("phase=compare", "compare.runs=[sx]")
    assert (answer.code, "did you mean 's'?" in answer.err) == (4, True)
    assert study("phase=compare", "compare.runs=[s:lr=7]").code == 2
    assert study("phase=compare").code == 2


@pytest.mark.slow
def test_a_sweep_of_evaluations_says_which_checkpoint(study):
    runs = [path.name for path in sorted(study.folder.glob("runs/sweeps/s/lr-*"))]
    paths = ",".join(f"runs/sweeps/s/{name}" for name in runs[:2])
    answer = study("-m", "phase=evaluate", f"checkpoint={paths}", "on=good.txt")
    assert answer.code == 0, answer.err
    table = answer.out.split("by loss")[1]
    assert "text ±" in table
    assert f"{runs[0]}/step-000004.npz" in table


# budgets


def budget(lab, *words):
    answer = lab(*KEYS, *words, "hydra.run.dir=b")
    assert answer.code == 0, answer.err
    return json.loads((lab.folder / "b/run.json").read_text())


def test_a_budget_makes_spending_equal(lab):
    few = budget(lab, "budget=tokens", "budget.amount=500")["results"]
    assert 350 <= few["tokens"] <= 500
    again = json.loads((lab.folder / "b/run.json").read_text())["results"]
    assert again["flops"] > 0


@pytest.mark.slow
def test_a_budget_of_flops_gives_a_larger_network_fewer_steps(lab):
    small = budget(lab, "budget=flops", "budget.amount=3e7", "model.hidden_dim=8")["results"]
    (lab.folder / "b").rename(lab.folder / "small")
    large = budget(lab, "budget=flops", "budget.amount=3e7", "model.hidden_dim=64")["results"]
    assert large["steps"] < small["steps"]
    for spent in (small, large):
        assert 0.8 * 3e7 < spent["flops"] <= 3e7


@pytest.mark.slow
def test_a_budget_of_seconds_records_the_speed_that_it_measured(lab):
    record = budget(lab, "budget=seconds", "budget.amount=0.2", "schedule=cosine")
    speed = record["seconds_per_step"]["pretrain"]
    assert record["results"]["steps"] == max(1, int(0.2 / speed))
    again = lab("resume=b")
    assert again.code == 0
    assert (
        json.loads((lab.folder / "b/run.json").read_text())["seconds_per_step"]["pretrain"] == speed
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["budget=tokens", "epochs=2"], "epochs=2: budget=tokens says how long to train"),
        (["budget=tokens", "budget.amount=0"], "budget.amount=0: must be more than 0"),
        (["budget=tokens", "budget.amount=null"], "budget.amount: missing; how many tokens"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(lab, words, said):
    answer = lab(*KEYS, *words)
    assert (answer.code, said in answer.err) == (2, True), answer.err


# the chart at the terminal


def test_intervals_are_drawn_on_one_scale():
    rows = [("a", 1.0, 0.0, 2.0), ("bb", 3.0, 2.0, 4.0)]
    first, second, scale = interval_lines(rows, "utf-8")
    assert first.startswith("a   ├") and first.endswith("┤")
    assert second.index("├") >= first.index("┤") - 1
    assert scale.split() == ["0", "4"]
    assert interval_lines(rows, "ascii")[0].startswith("a   |-")
    inf = float("inf")
    assert "├" not in interval_lines([("a", 1.0, -inf, inf), ("b", 2.0, -inf, inf)], "utf-8")[0]
    assert interval_lines(rows[:1]) == []
