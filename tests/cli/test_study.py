"""A question asked on the command line: arms, a verdict, more seeds, and how far it is."""

import csv
import json
import random
import subprocess
import sys
import time

import pytest
from command_line import FAILING, command_line

from llmlab.phases import PHASES, Phase
from llmlab.runs.sweep import Plan, duration

pytestmark = pytest.mark.slow


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys):
    """Return a command line where a training's loss is its lr, with some noise of the seed."""
    monkeypatch.setattr("hydra.plugins.sweeper.Sweeper.validate_batch_is_legal", lambda *_: None)
    monkeypatch.setattr("llmlab.report.study_page.can_draw", lambda: False)
    lab = command_line(tmp_path, monkeypatch, capsys)
    lab.killed_after = None

    def run(config, run):
        if lab.killed_after is not None and len(lab.calls) >= lab.killed_after:
            raise SystemExit(137)
        lab.calls.append(config)
        run.begin()
        if config.seed == FAILING:
            raise ValueError("a defect")
        noise = random.Random(f"{config.seed} {config.lr}").gauss(0, 0.01)
        facts = {"validation_sha256": str(config.batch_size), "checkpoint": "x.npz"}
        loss = config.lr + noise + random.Random(config.seed).gauss(0, 1)
        return {"loss": 1.0, "val_loss": loss, "tokens": 10, "parameters": 5, **facts}

    monkeypatch.setitem(PHASES, "tune", Phase(__name__, "", trains=True, function=run))
    return lab


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summary(folder):
    """Return summary.csv but for its column of time."""
    rows = table(folder / "summary.csv")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_row_an_arm_and_a_verdict(lab):
    answer = lab("-m", "phase=tune", "lr=0.5,1", "seed=1,2,3", "hydra.sweep.dir=s")
    assert answer.code == 0
    best, other = summary(lab.folder / "s")
    assert (best["arm"], best["seeds"], best["metric"]) == ("lr=0.5", "3", "val_loss")
    assert float(best["low"]) < float(best["mean"]) < float(best["high"])
    assert other["rank"] == "2"
    assert "by val_loss at the last validation, lower is better" in answer.out
    assert "lr=0.5 is better than lr=1: val_loss lower by 0.4" in answer.out
    assert "6 of 6 jobs" in answer.out and "5 of 6 jobs, about" in answer.out
    jobs = table(lab.folder / "s" / "results.csv")
    assert len(jobs) == 6 and len(set(jobs[0])) == len(jobs[0])
    assert "lr-0.5-seed-1" not in answer.out.split("by val_loss")[1]  # jobs only when asked
    again = lab(
        "-m", "phase=tune", "lr=0.5,1", "seed=1,2,3", "hydra.sweep.dir=s", "study.jobs=true"
    )
    assert len(lab.calls) == 6 and "lr-0.5-seed-1" in again.out


@pytest.mark.slow
def test_one_seed_claims_nothing_and_says_what_adds_some(lab):
    answer = lab("-m", "phase=tune", "lr=0.5,1", "hydra.sweep.dir=s")
    assert "no claim" in answer.out
    line = next(line for line in answer.out.splitlines() if line.startswith("Add seeds: "))
    words = line.split("llmlab ")[1].split()
    assert words == ["resume=s", "seed=1,2,3,4"]
    more = lab(*words)
    assert len(lab.calls) == 10
    assert [row["seeds"] for row in summary(lab.folder / "s")] == ["5", "5"]
    assert "lr=0.5 is better than lr=1" in more.out


@pytest.mark.slow
def test_values_added_later_run_alone_and_are_reported_with_the_others(lab):
    lab("-m", "phase=tune", "lr=0.5,1", "seed=1,2,3", "hydra.sweep.dir=s")
    assert lab("resume=s", "lr=0.5,1,2").code == 0
    assert len(lab.calls) == 9
    assert [row["arm"] for row in summary(lab.folder / "s")] == ["lr=0.5", "lr=1", "lr=2"]


def test_failed_jobs_count_in_their_arm_and_have_no_rank(lab):
    answer = lab("-m", "phase=tune", "lr=0.5,1", f"seed=1,2,{FAILING}", "hydra.sweep.dir=s")
    assert answer.code == 1
    assert [row["failed"] for row in summary(lab.folder / "s")] == ["1", "1"]
    assert [row["rank"] for row in table(lab.folder / "s" / "results.csv")].count("") == 2
    assert "lr=0.5: 1 of 3 failed" in answer.out


def test_other_validation_texts_are_refused(lab):
    answer = lab("-m", "phase=tune", "batch_size=2,4", "seed=1,2", "hydra.sweep.dir=s")
    assert "batch_size=4 and batch_size=2: their validation texts differ" in answer.out
    assert "better" not in answer.out.replace("lower is better", "")


@pytest.mark.slow
def test_what_is_asked_makes_no_other_job(lab):
    lab("-m", "phase=tune", "lr=0.5,1", "seed=1,2", "hydra.sweep.dir=s")
    asked = ["metric=loss", "direction=higher", "baseline=lr=1", "study.alpha=0.1"]
    answer = lab("-m", "phase=tune", "lr=0.5,1", "seed=1,2", *asked, "hydra.sweep.dir=s")
    assert (answer.code, len(lab.calls)) == (0, 4)
    assert "by loss, higher is better" in answer.out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seeds=atuo", "seeds=atuo: must be auto"),
        ("direction=up", "direction=up: must be lower or higher"),
        ("study.alpha=2", "study.alpha=2: must be more than 0 and less than 1"),
        ("baseline=lr=7", "baseline=lr=7: no arms of this sweep; write the values of one of: "),
    ],
)
def test_a_question_that_makes_no_sense_runs_nothing(lab, word, said):
    answer = lab("-m", "phase=tune", "lr=0.5,1", word)
    assert (answer.code, lab.calls) == (2, [])
    assert said in answer.err
    assert not (lab.folder / "runs").exists()


def test_an_unknown_metric_lists_those_that_are_reported(lab):
    answer = lab("-m", "phase=tune", "lr=0.5,1", "metric=val_los")
    assert answer.code == 2
    assert "metric=val_los: no job reports it (did you mean 'val_loss'?)" in answer.err


# seeds=auto

AUTO = ["phase=tune", "lr=0.5,0.505,2", "seeds=auto", "study.max_seeds=8", "study.resolution=0"]


@pytest.mark.slow
def test_seeds_are_added_until_it_is_decided(lab):
    answer = lab(*AUTO, "hydra.sweep.dir=s")
    assert answer.code == 0
    assert "seeds=auto: 3 arms, 9 jobs now, at most 24" in answer.out
    seeds = {row["arm"]: int(row["seeds"]) for row in summary(lab.folder / "s")}
    assert seeds["lr=2"] == 3  # it has lost at once
    assert seeds["lr=0.5"] == seeds["lr=0.505"] > 3
    assert (
        "lr=0.5 is better than lr=2" in answer.out or "lr=0.505 is better than lr=2" in answer.out
    )


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 5, 10])
def test_a_study_that_was_killed_goes_on_with_the_same_jobs(lab, jobs):
    lab.killed_after = jobs
    with pytest.raises(SystemExit):
        raise SystemExit(lab(*AUTO, "hydra.sweep.dir=k").code)
    assert len(lab.calls) == jobs
    lab.killed_after = None
    resumed = lab(*AUTO, "hydra.sweep.dir=k")
    killed = len(lab.calls)
    whole = lab(*AUTO, "hydra.sweep.dir=w")
    assert len(lab.calls) == 2 * killed  # none was run twice
    assert summary(lab.folder / "k") == summary(lab.folder / "w")
    told = [answer.out.split("by val_loss")[1].split("sweep:")[0] for answer in (resumed, whole)]
    assert told[0] == told[1]


@pytest.mark.slow
def test_auto_counts_all_seeds_that_are_there(lab):
    """Also those that were there before some were added."""
    lab("-m", "phase=tune", "lr=0.5,2", "seed=0,1,2", "hydra.sweep.dir=s")
    lab("resume=s", "seed=3")
    assert len(lab.calls) == 8
    answer = lab("resume=s", "seeds=auto", "study.max_seeds=6")
    assert answer.code == 0 and len(lab.calls) == 8  # 3 seeds decide it, and there were 4
    assert "lr=0.5 is better than lr=2" in answer.out and "3 seeds, paired" in answer.out
    record = json.loads((lab.folder / "s" / "sweep.json").read_text())
    assert record["auto"]["seeds"] == [3, 0, 1, 2, 4, 5]


@pytest.mark.slow
def test_auto_takes_up_what_was_run_before_and_the_baseline(lab):
    lab("-m", "phase=tune", "lr=0.5,2", "hydra.sweep.dir=s")
    answer = lab("resume=s", "seeds=auto", "baseline=lr=2")
    assert answer.code == 0
    assert len(lab.calls) == 6  # seed 0 of both was there
    assert "lr=0.5 is better than lr=2" in answer.out
    record = json.loads((lab.folder / "s" / "sweep.json").read_text())
    assert record["auto"]["seeds"][:3] == [0, 1, 2]


def test_auto_needs_something_to_compare(lab):
    answer = lab("phase=tune", "seeds=auto")
    assert answer.code == 2
    assert "seeds=auto: compares arms, and there is one" in answer.err


# how far it is


def test_progress_says_how_many_and_how_long(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "result.json").touch()
    monkeypatch.setattr("time.time", lambda: 1000.0)
    plan = Plan("abcd", 4, 0, 880.0)
    assert plan.progress(tmp_path) == "1 of 4 jobs, about 6 min left"
    (tmp_path / "b" / "result.json").touch()
    assert Plan("abcd", 4, 1, 940.0, True).progress(tmp_path) == (
        "2 of at most 4 jobs, about 2 min left at most"
    )
    assert Plan("ab", 2, 1, 880.0).progress(tmp_path) == "2 of 2 jobs"


def test_times_are_said_as_people_say_them():
    assert [duration(s) for s in (0.2, 89, 90, 5399, 5400)] == [
        "1 s",
        "89 s",
        "2 min",
        "90 min",
        "1.5 h",
    ]


@pytest.mark.slow
def test_kill_9_in_the_middle_of_auto_changes_neither_jobs_nor_verdict(tmp_path):
    words = ["experiment=tiny", "phase=pretrain", "steps=10", "epochs=null", "threads=1"]
    words += ["positions=learned,rope", "seeds=auto", "study.max_seeds=4"]
    words += ["data.pretrain.val_fraction=0.2"]

    def start(folder):
        command = [sys.executable, "-m", "llmlab", *words, f"hydra.sweep.dir={folder}"]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)

    calm = start("calm").communicate()[0]
    for ended in (1, 4, 7):  # the last one after a look
        process = start("killed")
        while len(list(tmp_path.glob("killed/*/result.json"))) < ended and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        process.communicate()
    told = start("killed").communicate()[0]
    names = [sorted(p.name for p in (tmp_path / f).glob("*-*")) for f in ("calm", "killed")]
    assert names[0] == names[1] and len(names[0]) == 8
    assert summary(tmp_path / "calm") == summary(tmp_path / "killed")
    verdicts = [text.split("by val_loss")[1].split("\n\n")[-1] for text in (calm, told)]
    assert verdicts[0].replace("calm", "killed") == verdicts[1]
