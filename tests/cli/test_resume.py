"""`resume=` and `checkpoint=`: what a command line becomes before Hydra reads it."""

import json
import shutil

import numpy as np
import pytest
from command_line import STOPPED, command_line

from llmlab.checkpoints import CheckpointFolder
from llmlab.cli.resume import prepare
from llmlab.errors import CheckpointError, ConfigError
from llmlab.runs.overrides import Override

WEIGHTS = {"params/w": np.ones(2, np.float32)}


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys):
    return command_line(tmp_path, monkeypatch, capsys)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(folder, *overrides, phase="tune", order=1, steps=(), stage=None):
    """Write what a run leaves, and return its checkpoints."""
    folder.mkdir(parents=True)
    record = {"phase": phase, "order": order, "overrides": overrides, "hydra_overrides": []}
    (folder / "run.json").write_text(json.dumps(record))
    return save(folder if stage is None else folder / stage, stage or phase, *steps)


def save(folder, stage, *steps):
    checkpoints = CheckpointFolder(folder / "checkpoints", keep=9)
    meta = {"stage": stage, "config": {"phase": stage}}
    return [checkpoints.save(step, WEIGHTS, meta) for step in steps]


def values(command):
    """Return the tokens by key, with the quotes of free text taken off."""
    found = map(Override.of, command.tokens)
    return {o.name: None if o.value is None else o.value.strip("'") for o in found}


def test_a_run_goes_on_with_its_overrides_and_the_keys_given_anew(here):
    run = here / "it's a run"
    make_run(run, "phase=tune", "lr=1e-3", "data.tune.path='/x/y.txt'", "resume='old'")
    command = prepare(["lr=2e-3", f"resume={run}", "seed=3"])
    assert command.tokens == [
        "phase=tune",
        "data.tune.path='/x/y.txt'",
        "lr=2e-3",
        "seed=3",
        f"hydra.run.dir='{here}/it\\'s a run'",
        f"resume='{here}/it\\'s a run'",
    ]
    assert not command.sweep
    assert command.typed == ("lr=2e-3", f"resume={run}", "seed=3")


def test_the_folder_of_ones_own_yaml_is_found_again(here):
    old, _ = make_run(here / "run", steps=(1, 2))
    (here / "sweep").mkdir()
    (here / "sweep/sweep.json").write_text('{"overrides": ["lr=1,2"], "config_dir": "/my conf"}')
    record = json.loads((here / "run/run.json").read_text())
    (here / "run/run.json").write_text(json.dumps({**record, "config_dir": "/my conf"}))
    for resumed in ("run", "sweep", str(old)):
        flags = prepare([f"resume={resumed}"]).flags
        assert flags[-2:] == ["--config-dir", "/my conf"]
        assert prepare([f"resume={resumed}", "--config-dir=new"]).flags[0] == "--config-dir=new"
        assert "/my conf" not in prepare([f"resume={resumed}", "--config-dir=new"]).flags


def test_a_new_length_replaces_the_old_one_in_whatever_unit(here):
    make_run(here / "run", "epochs=3", "stages.tune.steps=5")
    found = values(prepare(["resume=run", "steps=9"]))
    assert "epochs" not in found
    assert found["steps"] == "9"


def test_a_job_of_a_sweep_goes_on_by_itself(here):
    run = here / "job"
    make_run(run, "launcher=joblib", "phase=tune", "lr=1")
    record = json.loads((run / "run.json").read_text())
    record["hydra_overrides"] = ["hydra.sweep.dir='/s'", "hydra/launcher=joblib", "hydra.mode=RUN"]
    (run / "run.json").write_text(json.dumps(record))
    assert list(values(prepare(["resume=job"]))) == ["phase", "lr", "hydra.run.dir", "resume"]


def test_a_sweep_that_goes_on_through_another_launcher_leaves_the_settings_of_the_first(here):
    folder = here / "sweep"
    folder.mkdir()
    typed = ["lr=1,2", "launcher=slurm", "hydra.launcher.partition=low", "hydra/launcher=x"]
    (folder / "sweep.json").write_text(json.dumps({"overrides": typed}))
    assert "hydra.launcher.partition" in values(prepare(["resume=sweep"]))
    other = values(prepare(["resume=sweep", "launcher=basic"]))
    assert list(other) == ["lr", "launcher", "hydra.sweep.dir"]


def test_latest_is_the_run_that_started_last(here):
    make_run(here / "runs/tune/a", order=7)
    make_run(here / "runs/tune/b", order=3)
    make_run(here / "runs/chat/c", order=9, phase="chat")
    assert values(prepare(["resume=latest"]))["resume"] == str(here / "runs/tune/a")
    shutil.rmtree(here / "runs")
    with pytest.raises(CheckpointError, match="no training run"):
        prepare(["resume=latest"])


def test_latest_is_the_whole_sweep_when_its_job_started_last(here):
    make_run(here / "runs/sweeps/s/job", order=7)
    (here / "runs/sweeps/s/sweep.json").write_text('{"overrides": ["lr=1,2"]}')
    command = prepare(["resume=latest"])
    assert command.sweep
    assert values(command)["hydra.sweep.dir"] == str(here / "runs/sweeps/s")


def test_a_run_starts_where_there_is_none_yet(here):
    (here / "new").mkdir()
    (here / "new" / "log").write_text("")  # of a start that was killed at once
    for name in ("new", "not/there"):
        found = values(prepare([f"resume={name}", "lr=1"]))
        assert found == {"lr": "1", "hydra.run.dir": f"{here}/{name}", "resume": f"{here}/{name}"}
    command = prepare(["-m", "resume=new", "lr=1,2"])
    assert values(command) == {"lr": "1,2", "hydra.sweep.dir": f"{here}/new"}


@pytest.mark.parametrize(
    ("argv", "error", "said"),
    [
        (["resume=other"], ConfigError, "neither a run nor a sweep, but it contains thesis.tex"),
        (["resume=run", "-m", "lr=1,2"], ConfigError, "this is one run; leave -m out"),
        (["resume=damaged"], CheckpointError, "damaged"),
        (["resume=no.npz"], CheckpointError, "there is no such checkpoint"),
        (["checkpoint=no.npz"], CheckpointError, "there is no"),
        (["-m", "phase=pretrain,tune", "checkpoint=latest"], ConfigError, "phase=full"),
    ],
)
def test_what_cannot_go_on_is_refused(here, argv, error, said):
    make_run(here / "run")
    (here / "other").mkdir()
    (here / "other" / "thesis.tex").write_text("")
    (here / "damaged").mkdir()
    (here / "damaged" / "run.json").write_text("{")
    with pytest.raises(error, match=said):
        prepare(argv)


def test_the_newest_checkpoint_of_a_run_means_the_run(here):
    _, newest = make_run(here / "run", "lr=1", steps=(1, 2))
    assert values(prepare([f"resume={newest}"]))["hydra.run.dir"] == str(here / "run")


def test_an_older_checkpoint_begins_a_new_run(here):
    oldest, _ = make_run(
        here / "run", "lr=1", "data.tune.path='/my.txt'", "phase=full", steps=(1, 2)
    )
    assert values(prepare([f"resume={oldest}", "keep=4"])) == {
        "data.tune.path": "/my.txt",  # the checkpoint holds no paths
        "keep": "4",
        "phase": "tune",
        "resume": str(oldest),
    }


def test_a_moved_checkpoint_begins_a_new_run_of_its_stage(here):
    (path,) = save(here, "pretrain", 4)
    moved = path.rename(here / "moved.npz")
    with pytest.raises(ConfigError, match=f"phase=tune resume={moved}: .* of phase pretrain"):
        prepare([f"resume={moved}", "phase=tune"])
    assert values(prepare([f"resume={moved}", "phase=pretrain"])) == {
        "phase": "pretrain",
        "resume": str(moved),
    }


def test_the_first_stage_of_a_full_run_is_old_once_the_second_began(here):
    run = here / "run"
    (first,) = make_run(run, phase="full", stage="pretrain", steps=(5,))
    assert values(prepare([f"resume={first}"]))["hydra.run.dir"] == str(run)
    (second,) = save(run / "tune", "tune", 1)
    assert values(prepare([f"resume={first}"]))["phase"] == "pretrain"
    assert values(prepare([f"resume={second}"]))["hydra.run.dir"] == str(run)


# checkpoint=


def test_checkpoints_are_looked_up_once_and_recorded_by_path(here):
    _, newest = make_run(here / "runs/tune/a", steps=(1, 2))
    for given in ("latest", "runs/tune/a", str(newest)):
        assert values(prepare([f"checkpoint={given}"]))["checkpoint"] == str(newest)
    assert values(prepare(["phase=generate", "prompt=hi"]))["checkpoint"] == str(newest)
    assert "checkpoint" not in values(prepare(["phase=tune"]))
    command = prepare(["-m", "phase=evaluate", f"checkpoint=latest,{newest}"])
    assert values(command)["checkpoint"] == f"{newest}','{newest}"


def test_without_a_run_chat_says_how_to_get_one(here):
    with pytest.raises(CheckpointError, match="python -m llmlab starts one"):
        prepare(["phase=chat"])


# through the command line


def test_one_command_starts_and_continues_a_run(lab):
    command = ["phase=tune", "lr=1e-3", "resume=my run", f"seed={STOPPED}"]
    assert lab(*command).code == 143
    assert lab(*command, "epochs=7").code == 143
    answer = lab("resume=my run", "seed=1")
    assert answer.code == 0
    run = lab.folder / "my run"
    assert (run / "trace").read_text().splitlines() == ["tune 0.001 100", *["tune 0.001 7"] * 2]
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], len(record["restarts"])) == ("finished", 2)
    assert "epochs=7" in record["overrides"]


@pytest.mark.slow
def test_a_run_and_a_sweep_of_ones_own_yaml_go_on_from_elsewhere(lab, monkeypatch):
    own = lab.folder / "my conf"
    (own / "experiment").mkdir(parents=True)
    (own / "experiment/mine.yaml").write_text("# @package _global_\nlr: 0.25\n")
    mine = ["--config-dir", "my conf", "experiment=mine", "phase=tune", f"seed={STOPPED}"]
    assert lab(*mine, "hydra.run.dir=run").code == 143
    assert lab(*mine, "-m", "hydra.sweep.dir=sweep").code == 143
    (lab.folder / "elsewhere").mkdir()
    monkeypatch.chdir(lab.folder / "elsewhere")
    for name in ("run", "sweep"):
        assert prepare([f"resume={lab.folder / name}"]).flags[-2:] == ["--config-dir", str(own)]
    assert lab(f"resume={lab.folder / 'run'}", "seed=1").code == 0
    assert [config.lr for config in lab.calls] == [0.25] * 3
    record = json.loads((lab.folder / "run/run.json").read_text())
    assert record["config_dir"] == str(own)


@pytest.mark.slow
def test_a_run_keeps_the_kernels_that_auto_meant(lab, monkeypatch):
    def here(auto):
        monkeypatch.setattr("llmlab.kernels.resolve", lambda name: auto if name == "auto" else name)

    here("numpy")
    command = ["phase=tune", "resume=run", "kernels=auto", f"seed={STOPPED}"]
    assert lab(*command).code == 143
    here("numba")
    assert lab("resume=run", "seed=1").code == 0
    assert lab("phase=tune", "kernels=auto").code == 0
    assert [config.kernels for config in lab.calls] == ["numpy", "numpy", "numba"]
    assert "kernels: numpy" in (lab.folder / "run/config.yaml").read_text()


def test_a_state_of_an_older_checkpoint_brings_its_configuration(lab):
    lab("phase=tune", "lr=7e-3", "model.num_blocks=2", "data.tune.path=my.txt", "keep=3")
    config = lab.calls[0]
    (run,) = lab.folder.glob("runs/tune/*")
    meta = {"stage": "tune", "config": config.reproducible()}
    folder = CheckpointFolder(run / "checkpoints")
    first = folder.save(1, WEIGHTS, meta)
    folder.save(2, WEIGHTS, meta)
    answer = lab(f"resume={first}", "seed=5")
    assert answer.code == 0
    branched = lab.calls[1]
    assert (branched.lr, branched.seed, branched.keep) == (7e-3, 5, 3)
    assert branched.model == config.model
    assert branched.data["tune"]["path"] == str(lab.folder / "my.txt")
    assert branched.reproducible() == config.reproducible() | {"seed": 5}
    new = next(path for path in lab.folder.glob("runs/tune/*") if path != run)
    assert json.loads((new / "run.json").read_text())["parent"] == str(first)


@pytest.mark.slow
def test_a_run_that_branched_keeps_the_configuration_when_it_goes_on(lab):
    lab("phase=tune", "lr=7e-3", "batch_size=3", "hydra.run.dir=old it's")
    config = lab.calls[0]
    meta = {"stage": "tune", "config": config.reproducible()}
    checkpoints = CheckpointFolder(lab.folder / "old it's/checkpoints")
    first, _ = (checkpoints.save(step, WEIGHTS, meta) for step in (1, 2))
    assert lab(f"resume={first}", f"seed={STOPPED}").code == 143
    (branch,) = lab.folder.glob("runs/tune/*")
    for more in ("log_every=2", "keep=4"):  # as often as one likes
        assert lab(f"resume={branch}", more).code == 143
    own = CheckpointFolder(branch / "checkpoints").save(
        1, WEIGHTS, {**meta, "config": lab.calls[-1].reproducible()}
    )
    shutil.rmtree(lab.folder / "old it's")
    assert lab("resume=latest", "lr=2e-3").code == 143
    assert lab(f"resume={own}", "seed=5").code == 0
    changed = [{"seed": STOPPED}] * 3 + [{"seed": STOPPED, "lr": 2e-3}, {"seed": 5, "lr": 2e-3}]
    assert [c.reproducible() for c in lab.calls[1:]] == [config.reproducible() | c for c in changed]
    assert (lab.calls[-1].log_every, lab.calls[-1].keep) == (2, 4)
    record = json.loads((branch / "run.json").read_text())
    assert (record["status"], len(record["restarts"])) == ("finished", 4)


# ids, and words that are nearly right


def test_an_id_is_enough(here):
    _, newest = make_run(here / "runs/tune/20260101-000000-abcd", steps=(1, 2))
    make_run(here / "runs/sweeps/20260102-000000-abcd/lr-1-123456", order=2)
    (here / "runs/sweeps/20260102-000000-abcd/sweep.json").write_text('{"overrides": ["lr=1,2"]}')
    run = values(prepare(["resume=20260101-000000-abcd"]))["hydra.run.dir"]
    assert run == str(here / "runs/tune/20260101-000000-abcd")
    sweep = prepare(["resume=20260102-000000-abcd"])
    assert values(sweep)["hydra.sweep.dir"] == str(here / "runs/sweeps/20260102-000000-abcd")
    job = values(prepare(["resume=lr-1-123456"]))["hydra.run.dir"]
    assert job == str(here / "runs/sweeps/20260102-000000-abcd/lr-1-123456")
    for phase in ("tune", "generate"):
        found = values(prepare([f"phase={phase}", "checkpoint=20260101-000000-abcd"]))
        assert found["checkpoint"] == str(newest)
    verified = values(prepare(["phase=verify", "checkpoint=20260102-000000-abcd"]))
    assert verified["checkpoint"] == str(here / "runs/sweeps/20260102-000000-abcd")
    make_run(here / "runs/sweeps/20260103-000000-abcd/lr-1-123456", order=3)
    with pytest.raises(CheckpointError, match="the name of 2 folders"):
        prepare(["resume=lr-1-123456"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["checkpoint=lastest"], "did you mean 'latest'"),
        (["phase=chat", "checkpoint=bets"], "did you mean 'best'"),
        (["checkpoint=20260101-000000-abce"], "did you mean '20260101-000000-abcd'"),
        (["resume=20260101-000000-abce"], "no such run .did you mean '20260101-000000-abcd'"),
        (["resume=lastest"], "resume=latest continues"),
    ],
)
def test_near_misses_are_told(here, argv, said):
    make_run(here / "runs/tune/20260101-000000-abcd", steps=(1,))
    with pytest.raises((CheckpointError, ConfigError), match=said):
        prepare(argv)


# a run goes on as what it is


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["phase=evaluate", "resume=sweep"], "that is a sweep of phase tune"),
        (["phase=full", "resume=run"], "that is a run of phase pretrain"),
        (["phase=pretrain", "resume=full"], "that is a run of phase full"),
        (["phase=tune", "resume=run/checkpoints/step-000001.npz"], "a training of phase pretrain"),
        (["phase=evaluate", "resume=new"], "phase=evaluate isn't one"),
        (["phase=list", "resume=new"], "phase=list isn't one; leave resume= out"),
    ],
)
def test_another_phase_is_refused_and_touches_nothing(lab, argv, said):
    make_run(lab.folder / "run", phase="pretrain", steps=(1, 2))
    make_run(lab.folder / "full", phase="full", stage="tune", steps=(1,))
    make_run(lab.folder / "sweep/lr-1-123456")
    sweep = {"overrides": ["phase=tune", "lr=1,2"]}
    (lab.folder / "sweep/sweep.json").write_text(json.dumps(sweep))
    (lab.folder / "sweep/lr-1-123456/result.json").write_text('{"status": "finished"}')

    def tree():
        files = [path for path in lab.folder.rglob("*") if path.is_file()]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = tree()
    answer = lab(*argv)
    assert (answer.code, lab.calls) == (2, [])
    assert said in answer.err
    assert len(answer.lines) == 1
    assert tree() == before


@pytest.mark.slow
def test_the_phase_that_it_is_may_be_named(lab):
    lab("phase=tune", "hydra.run.dir=run", f"seed={STOPPED}")
    assert lab("phase=tune", "resume=run", "seed=1").code == 0
    lab("-m", "phase=tune", "lr=1,2", "hydra.sweep.dir=sweep")
    assert lab("phase=tune", "resume=sweep").code == 0
