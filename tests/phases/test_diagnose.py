"""Watching through the command line: rows, samples, findings, the page of a run."""

import json
import shutil

import pytest
from new_process import new_process
from small_run import KEYS, finished_run, small_lab  # noqa: F401 - fixtures

WATCHED = [
    *KEYS,
    "batch_size=4",
    "save_every=3",
    "callbacks.watch.every=4",
    "callbacks.samples.prompts=[the sun,a bird]",
    "callbacks.samples.every=5",
]
FILES = ("watch.jsonl", "samples.jsonl", "metrics.jsonl")


def rows(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.mark.slow
def test_rows_and_samples_are_the_same_after_a_kill(lab, monkeypatch):
    new_process(monkeypatch)
    answer = lab(*WATCHED, "steps=10", "hydra.run.dir=whole")
    assert answer.code == 0, answer.err
    whole = lab.folder / "whole"
    assert [row["step"] for row in rows(whole, "watch.jsonl")] == [1, 4, 8]
    assert [row["step"] for row in rows(whole, "samples.jsonl")] == [5, 10]
    assert [each["prompt"] for each in rows(whole, "samples.jsonl")[0]["samples"]] == [
        "the sun",
        "a bird",
    ]
    assert "step 5: the sun → " in answer.err
    # As it was when step 9 was saved, but killed after step 10 and in the midst of a row.
    torn = lab.folder / "torn"
    shutil.copytree(whole, torn)
    (torn / "checkpoints" / "step-000010.npz").unlink()
    with (torn / "watch.jsonl").open("a") as file:
        file.write('{"step": 12, "los')
    assert lab("resume=torn").code == 0
    for name in FILES:
        assert (torn / name).read_bytes() == (whole / name).read_bytes(), name


def test_neither_is_on_by_default(lab):
    assert not (lab.folder / "run" / "watch.jsonl").exists()
    assert not (lab.folder / "run" / "samples.jsonl").exists()


@pytest.mark.every_day(1)
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("callbacks.watch.every=0", "callbacks.watch.every=0: must be at least 1"),
        ("callbacks.samples={type: samples, prompts: ['']}", "one of them is empty"),
        ("report=yess", "report=yess: must be auto"),
    ],
)
def test_what_cannot_be_is_refused(lab, argv, said):
    answer = lab(*KEYS, argv, "hydra.run.dir=bad")
    assert answer.code == 2 and said in answer.err


def test_a_run_is_diagnosed(lab, monkeypatch):
    new_process(monkeypatch)
    monkeypatch.setattr("llmlab.phases.diagnose.can_draw", lambda: False)
    answer = lab("phase=diagnose", "diagnose.run=run")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0] == "run: phase pretrain, finished"
    assert lines[1:3] == [
        "pretrain: 2 steps, judged by losses and network",
        "  nothing is out of the ordinary",
    ]
    assert "callbacks.watch.every=20" in lines[3] and "llmlab[report]" in lines[4]
    # A step longer than the weights, and the run breaks.
    broken = lab(*WATCHED, "lr=1e30", "steps=30", "max_bad_steps=3", "hydra.run.dir=broken")
    assert broken.code == 1
    answer = lab("phase=diagnose", "diagnose.run=broken", "diagnose.page=false")
    assert answer.code == 0, answer.err
    assert "phase pretrain, failed: loss or gradient was not finite" in answer.out
    assert "  1. " in answer.out and "weren't finite" in answer.out and "try lr=" in answer.out
    assert "llmlab[report]" not in answer.out


@pytest.mark.every_day(1)
@pytest.mark.parametrize("watch", [False, True])
def test_a_training_ends_with_a_word_on_an_exploded_loss(lab, watch):
    keys = ["callbacks.watch.every=4"] if watch else []
    answer = lab(*KEYS, *keys, "lr=100", "steps=8", "hydra.run.dir=exploded")
    assert answer.code == 0, answer.err
    assert answer.err.count("the loss exploded from ") == 1 and "try lr=" in answer.err
    said = lab("phase=diagnose", "diagnose.run=exploded", "diagnose.page=false").out
    assert said.count("the loss exploded from ") == 1 and "schedule.warmup_steps" not in said


def test_what_is_no_run_is_said(lab):
    answer = lab("phase=diagnose", "diagnose.run=nothing")
    assert answer.code != 0 and "diagnose.run=nothing: not the folder of a run" in answer.err


@pytest.mark.every_day(2)
@pytest.mark.parametrize(
    ("report", "seconds", "drawn"),
    [("auto", 19, False), ("auto", 20, True), (True, 0, True), (False, 99, False)],
)
def test_when_a_run_gets_its_page(lab, monkeypatch, report, seconds, drawn):
    from dataclasses import replace

    from llmlab.cli.start import compose
    from llmlab.phases import run_report, training

    record = lab.folder / "run" / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "seconds": seconds}))
    monkeypatch.setattr(run_report, "can_draw", lambda: True)
    made = []
    monkeypatch.setattr(run_report, "draw", lambda folder, stages: made.append(folder) or folder)
    checkpoint = lab.folder / "run" / "checkpoints" / "step-000002.npz"
    config = replace(compose(*KEYS), report=report)
    training.after(config, {"checkpoint": str(checkpoint)})
    assert made == ([lab.folder / "run"] if drawn else [])


def test_a_page_that_cannot_be_drawn_is_no_error(lab, monkeypatch, caplog):
    from dataclasses import replace

    from llmlab.cli.start import compose
    from llmlab.phases import run_report

    monkeypatch.setattr(run_report, "can_draw", lambda: True)
    monkeypatch.setattr(run_report, "draw", lambda folder, stages: 1 / 0)
    checkpoint = lab.folder / "run" / "checkpoints" / "step-000002.npz"
    run_report.after(replace(compose(*KEYS), report=True), {"checkpoint": str(checkpoint)})
    assert "phase=diagnose diagnose.run=run tries again" in caplog.text
