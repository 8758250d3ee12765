"""Sweeps: all jobs run, one that fails stops no other, and what is done isn't done again."""

import csv
import gc
import json
import re
import weakref
from pathlib import Path

import pytest
from command_line import FAILING, STOPPED, command_line

from llmlab.cli import sweep_job
from llmlab.cli.sweep import sweep_folder
from llmlab.config.network import positions_in
from llmlab.runs.overrides import identity
from llmlab.runs.sweep import Jobs, Plan


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys):
    return command_line(tmp_path, monkeypatch, capsys)


@pytest.fixture
def quick(monkeypatch):
    """Leave out the page, and that Hydra composes each job twice, first to see that it can."""
    monkeypatch.setattr("hydra.plugins.sweeper.Sweeper.validate_batch_is_legal", lambda *_: None)
    monkeypatch.setattr("llmlab.report.page.can_draw", lambda: False)


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def jobs(folder):
    return sorted(path.parent.name for path in folder.glob("*/result.json"))


def the_sweep(lab):
    (folder,) = lab.folder.glob("runs/sweeps/*")
    return folder


def test_a_failing_job_is_a_row_and_the_others_run(lab, quick):
    answer = lab("-m", "phase=tune", "lr=1e-3,5e-4", f"seed=1,{FAILING}", "prompt=a, b")
    folder = the_sweep(lab)
    assert answer.code == 1
    assert len(lab.calls) == 4
    assert all(not config.chat for config in lab.calls)
    assert {config.prompt for config in lab.calls} == {"a, b"}
    found = rows(folder)
    assert [row["status"] for row in found] == ["finished"] * 2 + ["failed"] * 2
    assert [row["loss"] for row in found[:2]] == ["0.0005", "0.001"]
    assert [row["rank"] for row in found] == ["1", "2", "", ""]
    assert found[0]["prompt"] == "a, b"
    assert "loss was not finite" in found[2]["error"]
    table = answer.out.splitlines()
    head = next(index for index, line in enumerate(table) if line.startswith("by loss")) + 1
    assert table[head].split()[:3] == ["lr", "loss", "sd"]
    assert table[head + 1].split()[:2] == ["0.0005", "0.0005"]
    assert "lr=0.0005: 1 of 2 failed, so it isn't declared better." in table
    assert f"sweep: {folder.relative_to(lab.folder)}" in table
    assert "Traceback" not in answer.err


@pytest.mark.slow
def test_networks_are_swept_by_positions_and_by_layers_that_are_null(lab, quick):
    layer = "model.stack.positions=null,{type: sinusoidal_positions}"
    answer = lab("-m", "phase=tune", "positions=learned,rope,none")
    assert answer.code == 0, answer.err
    assert [tuple(positions_in(call.model["stack"])[1].values()) for call in lab.calls] == [
        (),
        ("rope",),
        (),
    ]
    lab("-m", "phase=tune", layer)
    found = [call.model["stack"].get("positions") for call in lab.calls[3:]]
    assert found == [None, {"type": "sinusoidal_positions"}]


@pytest.mark.slow
def test_a_sweep_is_resumed_and_extended(lab, quick):
    lab("-m", "phase=tune", "lr=1,2", f"seed={STOPPED}", "hydra.sweep.dir=s")
    folder = lab.folder / "s"
    assert len(lab.calls) == 1  # a stop ends the sweep, not only the job
    names = jobs(folder)
    # Not stopped any more: the first job continues, the second begins.
    answer = lab("resume=s", "seed=1")
    assert answer.code == 0
    assert len(lab.calls) == 3
    assert names[0] in jobs(folder)
    assert len(jobs(folder)) == 2
    trace = folder / names[0] / "trace"
    assert len(trace.read_text().splitlines()) == 2
    # More epochs for all of them: the same jobs go on.
    assert lab("resume=s", "epochs=200").code == 0
    assert len(lab.calls) == 5
    assert len(jobs(folder)) == 2
    # The same command with one value more: what is done isn't done again.
    answer = lab("-m", "phase=tune", "lr=1,2,3", "seed=1", "epochs=200", "hydra.sweep.dir=s")
    assert (answer.code, len(lab.calls)) == (0, 6)
    assert len(jobs(folder)) == 3
    assert len(rows(folder)) == 3


@pytest.mark.slow
def test_a_stopped_sweep_says_how_to_go_on(lab, quick):
    answer = lab("-m", "phase=tune", "lr=1,2", f"seed={STOPPED}")
    assert answer.code == 143
    assert answer.lines[-1] == (
        f"stopped; continue with: python -m llmlab resume={the_sweep(lab).relative_to(lab.folder)}"
    )
    result = json.loads(next(the_sweep(lab).glob("*/result.json")).read_text())
    assert result["status"] == "stopped"


def test_what_hydra_refuses_stops_the_sweep_before_any_job(lab):
    answer = lab("-m", "phase=tune", "lr=1,2", "modle.dropout=0.1")
    assert (answer.code, lab.calls) == (2, [])
    assert "did you mean 'model.dropout'" in answer.err
    assert not (lab.folder / "runs").exists()


@pytest.mark.slow
def test_what_the_schema_refuses_is_a_row(lab, quick):
    answer = lab("-m", "phase=tune", "batch_size=4,0")
    assert answer.code == 1
    assert [row["status"] for row in rows(the_sweep(lab))] == ["finished", "failed"]
    assert rows(the_sweep(lab))[1]["error"].startswith("batch_size=0: must be at least 1")


@pytest.mark.slow
def test_phases_can_be_swept(lab, quick):
    answer = lab("-m", "phase=pretrain,tune", "epochs=2")
    assert answer.code == 0
    assert [(c.phase, c.lr, c.epochs) for c in lab.calls] == [
        ("pretrain", 5e-4, 2),
        ("tune", 1e-4, 2),
    ]


def name(*tokens, typed=("lr=1,2",), varying=("lr",), former=None):
    return Jobs(Path("nowhere"), typed, varying, former).name(tokens)


def test_names_say_what_varies_and_are_the_same_in_any_order():
    typed = ["phase=tune", "lr=1e-3,1e-2", "seed=1,2", "model.num_blocks=3"]
    keys = {"typed": typed, "varying": ["lr", "seed"]}
    first = name("phase=tune", "model.num_blocks=3", "lr=1e-3", "seed=2", **keys)
    assert first == name("seed=2", "lr=1e-3", "phase=tune", "model.num_blocks=3", **keys)
    slug, digits = first.rsplit("-", 1)
    assert slug == "lr-0.001-seed-2"
    assert re.fullmatch("[0-9a-f]{6}", digits)
    assert first != name("phase=tune", "model.num_blocks=4", "lr=1e-3", "seed=2", **keys)
    assert name("lr=1", "resume=x", "launcher=joblib") == name("lr=1")
    assert name("phase=tune", typed=["phase=tune"], varying=()).startswith("job-")
    assert name("lr=1", "prompt=x", typed=["lr=1"], varying=()).startswith(
        "prompt-x-"
    )  # from elsewhere


def test_names_are_short_and_safe():
    assert len(name(f"prompt='{'x ' * 500}'", typed=(), varying=())) < 80
    assert "/" not in name("data.tune.path='/a/b/c.txt'", typed=(), varying=())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lr=1e-3", "lr=0.001"),
        ("lr=1e-3", "lr=1.0e-3"),
        ("epochs=1e3", "epochs=1000"),
        ("chat=False", "chat=false"),
        ("prompt='rain'", "prompt=rain"),
        ("plugins=[a.py,b.py]", "plugins=['a.py', b.py]"),
        ("optimizer={type:adam,beta1:0.9}", "optimizer={type: adam, beta1: 0.9}"),
        ("optimizer={type: adam, beta1: 9e-1}", "optimizer={beta1: 0.9, type: adam}"),
        (r"prompt='it\'s \${x}'", r"""prompt="it's \${x}\""""),
    ],
)
def test_values_are_compared_not_their_spelling(one, other):
    assert identity([one]) == identity([other])
    assert name(one) == name(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lr=1e-3", "lr=1e-4"),
        ("prompt='1'", "prompt=1"),
        ("chat=true", "chat='true'"),
        ("seed=0", None),  # a default that wasn't typed
        ("~experiment", "experiment=null"),
        ("plugins=[a.py,b.py]", "plugins=[b.py,a.py]"),
    ],
)
def test_values_that_differ_make_other_jobs(one, other):
    assert identity([one]) != identity([other] if other else [])


def test_keys_changed_for_all_jobs_do_not_rename_them():
    typed = ["lr=1,2", "epochs=3"]
    before = name("lr=1", "epochs=3", typed=typed)
    assert name("lr=1", "epochs=9", typed=typed, former={"epochs": "epochs=3"}) == before
    assert name("lr=1", "epochs=9", typed=typed, former={"epochs": None}) == name("lr=1")


def test_an_old_folder_is_found_by_what_it_records(tmp_path):
    (tmp_path / "lr-1e-3-phase-tune-abcdef").mkdir()
    record = {"phase": "tune", "order": 1, "overrides": ["phase=tune", "lr=1e-3", "resume='/x'"]}
    (tmp_path / "lr-1e-3-phase-tune-abcdef" / "run.json").write_text(json.dumps(record))
    jobs = Jobs(tmp_path, ["phase=tune", "lr=1,2"], ["lr"])
    assert jobs.name(["lr=0.001", "phase=tune"]) == "lr-1e-3-phase-tune-abcdef"
    assert jobs.name(["lr=0.002", "phase=tune"]).startswith("lr-0.002-")


# a folder has one owner


@pytest.mark.slow
def test_a_folder_of_another_job_is_refused_in_a_row_of_its_own(lab, quick):
    where = ["hydra.sweep.dir=s", "hydra.sweep.subdir=x"]
    for _ in range(2):  # the same again changes nothing
        answer = lab("-m", "phase=tune", "lr=1e-3,1e-1", *where)
        assert answer.code == 1
        finished, refused = rows(lab.folder / "s")
        assert (finished["job"], finished["status"], finished["lr"]) == ("x", "finished", "0.001")
        assert (refused["status"], refused["lr"], refused["loss"]) == ("failed", "0.1", "")
        assert "belongs to a job with other overrides (lr was 0.001, is 0.1)" in refused["error"]
        assert len(lab.calls) == 1
    assert not list(lab.folder.glob("s/lr-*/run.json"))


@pytest.mark.slow
def test_the_same_values_in_other_words_are_the_same_job(lab, quick):
    assert lab("-m", "phase=tune", "lr=1e-3,2e-3", "hydra.sweep.dir=s").code == 0
    assert lab("-m", "lr=0.002,1.0e-3", "phase=tune", "hydra.sweep.dir=s").code == 0
    assert len(lab.calls) == 2
    assert len(rows(lab.folder / "s")) == 2


@pytest.mark.slow
def test_the_joblib_launcher_runs_jobs_in_other_processes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    from llmlab.cli import main

    monkeypatch.chdir(tmp_path)
    code = main(["launcher=joblib", "phase=list", "seed=1,2", "hydra.launcher.n_jobs=2"])
    assert code == 0
    (folder,) = tmp_path.glob("runs/sweeps/*")
    assert len(rows(folder)) == 2


@pytest.mark.slow
def test_a_sweep_keeps_nothing_of_the_jobs_that_have_ended(lab, monkeypatch):
    """Hydra's launcher would keep the configuration of each job until the last has ended."""
    begun, alive = [], []
    run = sweep_job.run_sweep_job

    def watched(cfg, *args):
        gc.collect()
        alive.append(sum(ref() is not None for ref in begun))
        begun.append(weakref.ref(cfg))
        return run(cfg, *args)

    monkeypatch.setattr(sweep_job, "run_sweep_job", watched)
    assert lab("-m", "experiment=tiny", "phase=pretrain", "steps=1", "seed=1,2,3,4").code == 0
    assert len(alive) == 4
    assert max(alive) <= 1


@pytest.mark.slow
def test_the_time_that_is_left_is_counted_from_the_first_job(lab, monkeypatch):
    """Hydra composes all jobs before the first, which takes long where there are many."""
    told = []
    monkeypatch.setattr(
        "hydra.plugins.sweeper.Sweeper.validate_batch_is_legal",
        lambda self, batch: told.append(self._jobs.plan.began),
    )
    monkeypatch.setattr(
        Plan, "progress", lambda self, folder: told.append(self.began) or "progress"
    )
    assert lab("-m", "experiment=tiny", "phase=pretrain", "steps=1", "seed=1,2").code == 0
    assert told[0] < told[1] == told[2]


def test_a_sweep_without_a_folder_does_not_go_on_with_one_of_the_same_second(tmp_path, monkeypatch):
    ids = iter(["20260101-000000-aaaa", "20260101-000000-bbbb"])
    monkeypatch.setattr("llmlab.runs.new_id", lambda: next(ids))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/sweeps/20260101-000000-aaaa").mkdir(parents=True)
    assert sweep_folder([]).name == "20260101-000000-bbbb"
