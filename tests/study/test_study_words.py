"""What a study prints next to its figures: commands that work where they are printed."""

import json
import logging

import pytest

from llmlab.cli.hydra_errors import _unreadable
from llmlab.cli.sweep import is_of_a_job
from llmlab.config.study import Question
from llmlab.phases.compare import _placed
from llmlab.report.study import read_study, study_of
from llmlab.report.study_page import _command
from llmlab.report.study_tables import lines
from llmlab.runs.results import Sweep
from llmlab.study.arms import Job, arms_of


def study(folder, values, facts=None):
    """Return a study of {arm: [losses by seed]}; `facts` by arm."""
    jobs = [
        Job(
            f"{lr}-{seed}", {"lr": lr}, seed, values={"loss": loss}, facts=(facts or {}).get(lr, {})
        )
        for lr, losses in values.items()
        for seed, loss in enumerate(losses)
    ]
    question = Question(study={"alpha": 0.05, "max_seeds": 20, "resolution": 0.01, "jobs": False})
    return study_of(Sweep(folder, jobs, arms_of(jobs), {}), question, {})


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Return the folder of a sweep of seeds 1 to 4, the last two of which were added."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "s"
    tokens = ["phase=pretrain", "lr=1,2", "seed=3,4", f"hydra.sweep.dir='{folder}'"]
    folder.mkdir()
    record = {"format": 1, "overrides": tokens}
    (folder / "sweep.json").write_text(json.dumps(record))
    for seed in (1, 2, 3, 4):
        (folder / f"job-{seed}").mkdir()
        about = {"status": "finished", "overrides": {"lr": "1"}, "seed": seed, "loss": 1.0}
        (folder / f"job-{seed}" / "result.json").write_text(json.dumps(about))
    return folder


def test_only_a_sweep_is_offered_more_seeds(tmp_path, sweep):
    one, few = {"1": [2.0], "2": [5.0]}, {"1": [2.0, 2.4], "2": [2.3, 2.2]}
    assert not any("Add seeds" in line for line in lines(study(tmp_path, one)))
    assert not any("Add seeds" in line for line in lines(study(tmp_path, few)))
    assert lines(study(sweep, one))[-1].endswith("llmlab resume=s seed=1,2,3,4")
    assert lines(study(sweep, few))[-1].endswith("llmlab resume=s seeds=auto")


def test_what_is_refused_has_no_rank(tmp_path):
    facts = {"1": {"objective": "x"}, "2": {"objective": "y"}}
    found = study(tmp_path, {"2": [5.0], "1": [2.0]}, facts)
    assert [arm.name for arm in found.arms] == ["lr=2", "lr=1"]  # as they were named
    assert lines(found)[0].startswith("loss, not ranked")
    assert "training losses aren't alike" in found.verdict.sentences[0]


def test_long_values_are_cut_in_the_table(tmp_path):
    table = "\n".join(lines(study(tmp_path, {"x" * 90: [1.0, 1.1], "2": [2.0, 2.1]})))
    assert "x" * 39 + "…" in table.split("\n\n")[0] and "x" * 41 not in table.split("\n\n")[0]


def test_the_page_holds_a_command_that_can_be_pasted(sweep):
    ((title, text),) = _command(sweep, read_study(sweep))
    made, more = text.split("\n\nadd to it: ")
    assert title == "Command"
    assert made.endswith(" -m phase=pretrain lr=1,2 seed=1,2,3,4 hydra.sweep.dir=s")
    assert more.endswith("llmlab resume=s")


def test_keys_that_only_watch_make_no_arm(tmp_path):
    watched = {"callbacks.watch.every": "20", "keep": "3", "keepsake": "1", "lr": "1"}
    assert _placed(Job(str(tmp_path), watched, 0)).settings == {"keepsake": "1", "lr": "1"}


def test_a_job_is_shown_as_it_was_typed():
    text = "\t#0 : ++data.pretrain.val_fraction=0.2 ++model.extra=1 lr=1"
    record = logging.LogRecord("hydra", logging.INFO, "", 0, text, None, None)
    assert is_of_a_job(record)
    assert record.getMessage() == "\t#0 : data.pretrain.val_fraction=0.2 ++model.extra=1 lr=1"


@pytest.mark.parametrize("value", ["tag(log,interval(1e-4,1e-1)", "[1,2", "{a:1]"])
def test_brackets_that_do_not_match_are_named(value):
    assert "its brackets don't match" in _unreadable([f"lr={value}"])


@pytest.mark.parametrize("value", ["a, (b): 'c", "it's: (b"])
def test_text_is_still_told_to_be_quoted(value):
    assert "two kinds of quotes" in _unreadable([f"prompt={value}"])
