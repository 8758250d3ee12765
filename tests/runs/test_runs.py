"""A run's folder: lock, record, log; finding runs and checkpoints."""

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from llmlab.checkpoints import CheckpointFolder
from llmlab.errors import CheckpointError, ConfigError, DataError, ResourceError, Stopped
from llmlab.runs import (
    Run,
    latest_checkpoint,
    latest_run,
    new_id,
    provenance,
    read_record,
    resolve_checkpoint,
)
from llmlab.runs.lookup import find_runs
from llmlab.runs.record import new_folder
from llmlab.runs.stored import RUN

FIXTURES = Path(__file__).parents[1] / "fixtures"

log = logging.getLogger("llmlab")


def begin(folder, phase="pretrain", **options):
    return Run.create(folder, phase=phase, config={"lr": 5e-4}, **options)


def checkpoint(folder, *steps):
    for step in steps:
        CheckpointFolder(folder / "checkpoints").save(step, {"params/w": np.full(50, step)}, {})


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


# --- the folder ----------------------------------------------------------------------------------


def test_ids_have_time_and_chance():
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", new_id())
    assert len({new_id() for _ in range(20)}) > 15


def test_a_run_leaves_record_config_and_log(runs):
    folder = runs / "pretrain" / "a"
    config = {"prompt": "What's ${x}: é?", "lr": 5e-5, "stack": [{"type": "linear"}]}
    options = {"overrides": ["lr=5e-5", "resume='/x'"], "hydra_overrides": ["hydra/x=y"]}
    with Run.create(
        str(folder), phase="pretrain", config=config, argv=["lr=5e-5"], parent=runs, **options
    ) as run:
        assert run.folder == folder.absolute()
        assert read_record(folder)["status"] == "running"
        log.info("hello é")
        run.begin(threads=2, hashes={"data": "abc"})
        assert run.stage_folder("tune") == folder / "tune" and (folder / "tune").is_dir()
        run.finish("finished", loss=0.5)
    record = read_record(folder)
    assert record["phase"] == "pretrain" and record["status"] == "finished"
    assert record["results"] == {"loss": 0.5} and record["seconds"] >= 0
    assert record["overrides"] == ["lr=5e-5"] and record["hydra_overrides"] == ["hydra/x=y"]
    assert record["argv"] == ["lr=5e-5"] and record["parent"] == str(runs)
    assert record["threads"] == 2 and record["hashes"] == {"data": "abc"}
    assert record["versions"]["numpy"] == np.__version__ and record["cpu"] and record["cpus"] >= 1
    assert record["blas"][0]["threads"] >= 1
    assert yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) == config
    assert "INFO hello é" in (folder / "log").read_text(encoding="utf-8")
    assert (runs / "latest").read_text() == "pretrain/a\n" and not (runs / "latest").is_symlink()


def test_the_log_ends_with_its_run(runs):
    handlers, level = list(log.handlers), log.level
    with begin(runs / "pretrain" / "a"):
        log.info("one")
    with begin(runs / "pretrain" / "b"):
        log.info("two")
    log.warning("three")
    assert (log.handlers, log.level) == (handlers, level)
    told = [(runs / "pretrain" / name / "log").read_text() for name in "ab"]
    assert "one" in told[0] and "two" not in told[0]
    assert "two" in told[1] and "three" not in told[0] + told[1]


def test_a_folder_takes_one_new_run(runs):
    with begin(runs / "pretrain" / "a"):
        pass
    before = (runs / "pretrain" / "a" / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="resume="):
        begin(runs / "pretrain" / "a")
    assert (runs / "pretrain" / "a" / "run.json").read_bytes() == before
    with Run.open(runs / "pretrain" / "a"):  # the refusal has unlocked it again
        pass


def test_a_folder_in_which_a_run_was_killed_at_birth_can_be_used(runs):
    (runs / "pretrain" / "a").mkdir(parents=True)
    (runs / "pretrain" / "a" / "lock").write_text("process 1 on x\n")
    (runs / "pretrain" / "a" / "config.yaml").write_text("lr: 1\n")
    with begin(runs / "pretrain" / "a"):
        assert yaml.safe_load((runs / "pretrain" / "a" / "config.yaml").read_text())["lr"] == 5e-4


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no\nluck"), "failed"),
        (Stopped("SIGTERM", 143), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (Stopped("SIGUSR1", 138), "preempted"),
        (Stopped("SIGUSR2", 140), "preempted"),
    ],
)
def test_how_a_run_ended_is_recorded(runs, error, status, capsys):
    with pytest.raises(type(error)), begin(runs / "pretrain" / "a"):
        raise error
    record = read_record(runs / "pretrain" / "a")
    assert record["status"] == status and "\n" not in record["results"]["error"]
    has_trace = "Traceback" in (runs / "pretrain" / "a" / "log").read_text()
    assert has_trace is not isinstance(error, Stopped)
    assert "Traceback" not in "".join(capsys.readouterr())


def test_leaving_without_a_word_is_finished(runs):
    with begin(runs / "pretrain" / "a"):
        pass
    assert read_record(runs / "pretrain" / "a")["status"] == "finished"


def test_a_refused_record_doesnt_hide_what_went_wrong(runs, monkeypatch):
    with pytest.raises(ValueError, match="first"), begin(runs / "pretrain" / "a"):
        monkeypatch.setattr("os.fsync", refuse)
        raise ValueError("first")
    monkeypatch.undo()
    with Run.open(runs / "pretrain" / "a"):
        pass


def refuse(*args):
    raise OSError(28, "No space left on device")


def test_a_folder_that_cant_be_written_is_one_line(runs, monkeypatch):
    runs.write_text("a file")
    with pytest.raises(ResourceError, match="runs"):
        begin(runs / "pretrain" / "a")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(ResourceError, match=r"No space left on device; .*free some space"):
            begin(runs.parent / "elsewhere" / "a")


def test_the_resume_command_is_short_and_can_be_pasted(runs, tmp_path, monkeypatch):
    with begin(runs / "pretrain" / "a") as run:
        assert run.resume_command == "python -m llmlab resume=runs/pretrain/a"
    with begin(runs / "pretrain" / "it's mine") as run:
        assert run.resume_command == "python -m llmlab 'resume=runs/pretrain/it'\"'\"'s mine'"
        monkeypatch.chdir(runs / "pretrain")
        assert run.resume_command.endswith("'resume=it'\"'\"'s mine'")
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        assert f"resume={runs}/pretrain/it" in run.resume_command
        monkeypatch.setattr(sys, "argv", ["/usr/bin/llmlab", "lr=1"])
        assert run.resume_command.startswith("llmlab 'resume=")


# --- going on ------------------------------------------------------------------------------------


def test_a_restart_is_recorded_and_its_overrides_stay(runs):
    folder = runs / "pretrain" / "a"
    with begin(folder, overrides=["lr=1", "seed=3"]):
        log.info("first start")
    created, order = (read_record(folder)[key] for key in ("created", "order"))
    again = ["lr=1", "seed=3", "resume='/x'"]
    with Run.open(folder, overrides=again, argv=["resume=latest"]) as run:
        run.begin(threads=1)
        assert read_record(folder)["status"] == "running"
    with Run.open(folder, overrides=["seed=3", "lr=2"], config={"lr": 2}) as run:
        run.begin()
    with Run.open(folder) as run:
        log.info("last start")
        run.begin()
    record = read_record(folder)
    assert (record["created"], record["order"]) == (created, order)
    assert record["overrides"] == ["seed=3", "lr=2"]
    restarts = record["restarts"]
    assert [entry.get("overrides_before") for entry in restarts] == [None, ["lr=1", "seed=3"], None]
    assert restarts[0]["argv"] == ["resume=latest"] and restarts[0]["changed"] == {}
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"lr": 2}
    told = (folder / "log").read_text()
    assert told.index("first start") < told.index("last start")


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, Stopped("x", 143)])
def test_a_finished_run_that_has_nothing_to_do_stays_as_it_was(runs, error):
    folder = runs / "pretrain" / "a"
    with begin(folder, overrides=["lr=1"]):
        log.info("first start")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}
    with contextlib.suppress(KeyboardInterrupt, Stopped):
        with Run.open(folder, overrides=["lr=2"], config={"lr": 2}) as run:
            log.info("nothing to do")
            if error is not None:
                raise error
        assert not run.begun and run.record["overrides"] == ["lr=1"]
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}
    assert after == before


def test_a_run_that_died_before_its_end_was_recorded_is_finished_as_what_it_was(runs):
    folder = runs / "pretrain" / "a"
    with pytest.raises(RuntimeError), begin(folder, overrides=["lr=1"]):
        raise RuntimeError("the power")
    with Run.open(folder, overrides=["lr=2"], config={"lr": 2}):
        pass
    record = read_record(folder)
    assert (record["status"], record["overrides"], record["restarts"]) == ("finished", ["lr=1"], [])
    assert yaml.safe_load((folder / "config.yaml").read_text())["lr"] == 5e-4


@pytest.mark.parametrize("error", [ConfigError, DataError, CheckpointError, ResourceError])
def test_a_restart_that_is_refused_leaves_the_record_as_it_was(runs, error):
    folder = runs / "pretrain" / "a"
    with begin(folder, overrides=["lr=1"]):
        pass
    before = [(folder / name).read_bytes() for name in ("run.json", "config.yaml")]
    with pytest.raises(error), Run.open(folder, overrides=["lr=x"], config={"lr": "x"}) as run:
        assert not run.refused(RuntimeError())
        raise error("no")
    assert [(folder / name).read_bytes() for name in ("run.json", "config.yaml")] == before
    with pytest.raises(error), Run.open(folder, overrides=["lr=2"]) as run:
        run.begin(threads=1)
        raise error("too late: it has begun")
    assert read_record(folder)["overrides"] == ["lr=2"]
    assert read_record(folder)["status"] == "failed"


def test_a_new_run_that_is_refused_leaves_nothing(runs, tmp_path):
    with pytest.raises(DataError), begin(runs / "pretrain" / "a") as run:
        run.stage_folder("tune")
        raise DataError("no text")
    assert not runs.exists()
    with begin(runs / "tune" / "b"):
        pass
    with pytest.raises(DataError), begin(runs / "tune" / "c"):
        (runs / "tune" / "c" / "notes.txt").write_text("somebody's")
        raise DataError("no text")
    assert [path.name for path in (runs / "tune" / "c").iterdir()] == ["notes.txt"]
    assert (runs / "latest").read_text() == "tune/b\n"


def test_what_may_change_the_last_bits_is_warned_of(runs, monkeypatch, caplog):
    folder = runs / "pretrain" / "a"
    with begin(folder) as run:
        run.begin(threads=2)
    with Run.open(folder) as run:
        run.begin(threads=2)
    assert caplog.text == ""
    monkeypatch.setattr(provenance, "cpu_model", lambda: "abacus")
    library = {"name": "openblas", "version": "9", "core": "Z80", "threads": 1}
    monkeypatch.setattr(provenance, "blas", lambda: [library])
    with Run.open(folder) as run:
        run.begin(threads=3)
    warned = [each.getMessage() for each in caplog.records]
    assert len(warned) == 3 and all("bits may differ" in line for line in warned)
    assert "abacus" in caplog.text and "Z80" in caplog.text
    assert "threads was 2 and is 3" in caplog.text
    assert "Z80" in (folder / "log").read_text()
    assert set(read_record(folder)["restarts"][1]["changed"]) == {"BLAS", "CPU"}
    caplog.clear()
    library["threads"] = 8  # training sets them itself
    with Run.open(folder):
        pass
    assert caplog.text == ""


def test_no_run_or_a_damaged_record_is_told(runs):
    with pytest.raises(CheckpointError, match=r"run\.json: No such file"):
        Run.open(runs / "pretrain" / "a")
    assert not runs.exists()
    folder = runs / "pretrain" / "a"
    folder.mkdir(parents=True)
    for damaged in (b"", b"{", b"[]", b"{}", b"\xff", b"[" * 10**5, b'{"phase": 1, "order": 1}'):
        (folder / "run.json").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"run\.json: damaged"):
            Run.open(folder)


# --- the lock ------------------------------------------------------------------------------------


def test_a_second_one_is_told_who_is_at_work(runs):
    with begin(runs / "pretrain" / "a"):
        for attempt in (begin, Run.open):
            with pytest.raises(ResourceError, match=f"process {os.getpid()} on .*stop it"):
                attempt(runs / "pretrain" / "a")


HOLD = """
import sys, time
from llmlab.runs import Run
with Run.create(sys.argv[1], phase="pretrain", config={}):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_no_lock(runs):
    folder = runs / "pretrain" / "a"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        try:
            with pytest.raises(ResourceError, match=f"process {holder.pid} "):
                Run.open(folder)
        finally:
            holder.kill()
    with Run.open(folder):
        pass


ORPHAN = """
import os, sys, time
from llmlab.runs import Run
run = Run.create(sys.argv[1], phase="pretrain", config={})
if os.fork() == 0:
    print(os.getpid(), flush=True)  # from here, since what it shares is closed by now
time.sleep(60)
"""


@pytest.mark.slow
def test_a_forked_worker_that_outlives_its_parent_doesnt_hold_the_lock(runs):
    folder = runs / "pretrain" / "a"
    command = [sys.executable, "-c", ORPHAN, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        orphan = int(holder.stdout.readline())
        try:
            with pytest.raises(ResourceError):
                Run.open(folder)  # the child's closing hasn't freed the parent's lock
            holder.kill()
            holder.wait()
            os.kill(orphan, 0)  # it is alive
            with Run.open(folder):
                pass
        finally:
            os.kill(orphan, signal.SIGKILL)


def test_a_symbolic_link_as_lock_isnt_followed(runs, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (runs / "a").mkdir(parents=True)
    (runs / "a" / "lock").symlink_to(victim)
    with pytest.raises(ResourceError, match="lock"):
        begin(runs / "a")
    assert victim.read_text() == "precious"


# --- which is the latest -------------------------------------------------------------------------


def test_the_latest_is_the_one_started_last_of_those_that_train(runs, caplog):
    for folder, phase in (
        ("sweeps/s/lr-1-abc", "tune"),
        ("pretrain/b", "pretrain"),
        ("full/a", "full"),
        ("verify/z", "verify"),
    ):
        with begin(runs / folder, phase):
            pass
    assert latest_run() == runs / "full" / "a"
    assert (runs / "latest").read_text() == "full/a\n"
    assert len(list(find_runs(runs))) == 4
    with Run.open(runs / "pretrain" / "b"):  # started again isn't started last
        pass
    assert latest_run() == runs / "full" / "a"
    (runs / "full" / "a" / "run.json").write_text("{")
    assert latest_run() == runs / "pretrain" / "b"
    assert "skipped" in caplog.text


def test_a_clock_set_back_changes_no_order(runs, monkeypatch):
    with begin(runs / "pretrain" / "first"):
        pass
    monkeypatch.setattr(time, "time_ns", lambda: 1_000)
    for name in ("c", "b", "a"):
        with begin(runs / "pretrain" / name):
            pass
        assert latest_run() == runs / "pretrain" / name


def test_a_lost_hint_changes_nothing(runs):
    for name in "ab":
        with begin(runs / "pretrain" / name):
            pass
        (runs / "latest").write_bytes(b"\xff\0")
    assert latest_run() == runs / "pretrain" / "b"


def test_nothing_yet_says_what_to_do(runs):
    for find in (latest_run, latest_checkpoint):
        with pytest.raises(CheckpointError, match="python -m llmlab starts one"):
            find()
    assert not runs.exists()


def test_the_latest_checkpoint(runs, caplog):
    for name in "ab":
        with begin(runs / "pretrain" / name):
            pass
    checkpoint(runs / "pretrain" / "a", 1, 2)
    expected = runs / "pretrain" / "a" / "checkpoints" / "step-000002.npz"
    assert latest_checkpoint() == expected == resolve_checkpoint("latest")
    assert "no checkpoint" in caplog.text  # of b, the newer one
    with begin(runs / "full" / "c", "full") as run:
        checkpoint(run.stage_folder("pretrain"), 9)
        assert latest_checkpoint().parts[-3:] == ("pretrain", "checkpoints", "step-000009.npz")
        checkpoint(run.stage_folder("tune"), 0, 3)
    assert latest_checkpoint().parts[-3:] == ("tune", "checkpoints", "step-000003.npz")


def test_what_checkpoint_takes(runs, tmp_path, monkeypatch):
    with begin(runs / "full" / "c", "full") as run:
        checkpoint(run.stage_folder("tune"), 3, 4)
    tune = runs / "full" / "c" / "tune"
    newest = tune / "checkpoints" / "step-000004.npz"
    for value in (run.folder, tune, tune / "checkpoints", newest, str(newest), "latest"):
        assert resolve_checkpoint(value) == newest
    assert resolve_checkpoint("runs/full/c/tune/checkpoints/step-000003.npz").is_absolute()
    monkeypatch.setenv("HOME", str(runs))
    assert resolve_checkpoint("~/full/c") == newest
    with pytest.raises(CheckpointError, match=r"there is no .*name a file"):
        resolve_checkpoint("runs/none")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        resolve_checkpoint(tmp_path)


def test_the_best_is_taken_by_name(runs):
    with begin(runs / "tune" / "c", "tune") as run:
        checkpoint(run.folder, 3, 4)
    for value in ("best", run.folder / "checkpoints" / "best"):
        with pytest.raises(CheckpointError, match=r"has no best, since nothing was validated"):
            resolve_checkpoint(value)
    checkpoints = run.folder / "checkpoints"
    CheckpointFolder(checkpoints).save(5, {"params/w": np.ones(2)}, {}, best=True)
    checkpoint(run.folder, 6)
    for value in ("best", checkpoints / "best"):
        assert resolve_checkpoint(value) == checkpoints / "step-000005.npz"
    for value in ("latest", checkpoints / "latest", run.folder):
        assert resolve_checkpoint(value) == checkpoints / "step-000006.npz"


def test_folders_of_one_second_are_never_one(tmp_path, monkeypatch):
    ids = iter(["20260101-000000-aaaa"] * 3 + ["20260101-000000-bbbb"] * 2)
    monkeypatch.setattr("llmlab.runs.record.new_id", lambda: next(ids))
    found = [new_folder(tmp_path / "pages").name[-4:] for _ in range(2)]
    assert found == ["aaaa", "bbbb"]
    (tmp_path / "pages/file").write_text("")
    with pytest.raises(ResourceError):
        new_folder(tmp_path / "pages/file")


def test_latest_says_if_its_sweep_ranks_another_job_first(runs, caplog):
    sweep = runs / "sweeps" / "s"
    for name, loss in (("a", 1.0), ("b", 2.0)):
        with begin(sweep / name) as run:
            checkpoint(run.folder, 4)
        told = {"status": "finished", "overrides": {"lr": name}, "val_loss": loss}
        (sweep / name / "result.json").write_text(json.dumps(told))
    started = {"overrides": [], "varying": ["lr"], "changed": {}, "question": {}}
    (sweep / "sweep.json").write_text(json.dumps(started))
    told = "latest: b, which of runs/sweeps/s began last; checkpoint=best takes the best, a"
    assert resolve_checkpoint("latest").parts[-3] == "b" and caplog.messages == [told]
    best = {"trial": "b", "metric": "parameters", "value": 3, "trials": 2}
    (sweep / "best.json").write_text(json.dumps(best))  # a search's, by another number
    caplog.clear()
    assert resolve_checkpoint("latest").parts[-3] == "b" and not caplog.messages
    assert resolve_checkpoint("best").parts[-3] == resolve_checkpoint(sweep).parts[-3] == "b"
    assert "the best of 2 trials by parameters 3.0000" in caplog.text


# --- where the numbers came from -----------------------------------------------------------------


def test_git_is_asked_and_may_be_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "site" / "llmlab" / "runs" / "x.py"))
    assert provenance.git_state() is None
    monkeypatch.setattr(provenance, "_ENVIRONMENT", {"PATH": ""})
    assert provenance.git_state() is None


def test_a_repository_and_its_changes_are_seen(tmp_path, monkeypatch):
    def git(*arguments):
        config = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        command = ("git", "-C", str(tmp_path), *config, *arguments)
        subprocess.run(command, check=True, capture_output=True)

    (tmp_path / "llmlab").mkdir()
    (tmp_path / "llmlab" / "x.py").write_text("1\n")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "llmlab" / "runs" / "x.py"))
    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    state = provenance.git_state()
    assert state is not None and re.fullmatch("[0-9a-f]{40}", state["revision"])
    assert state["dirty"] is False
    (tmp_path / "llmlab" / "x.py").write_text("2\n")
    state = provenance.git_state()
    assert state is not None and state["dirty"] is True


PROGRAMS = [
    ("core.fsmonitor", "{program}"),
    ("core.hooksPath", "{folder}/hooks"),
    ("filter.evil.clean", "{program}"),
    ("filter.evil.process", "{program}"),
    ("diff.external", "{program}"),
    ("diff.evil.textconv", "{program}"),
    ("core.sshCommand", "{program}"),
    ("core.pager", "{program}"),
    ("alias.status", "!{program}"),
    ("alias.rev-parse", "!{program}"),
    ("core.askPass", "{program}"),
    ("credential.helper", "!{program}"),
]


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Return a repository whose configuration names a program everywhere; it leaves a trace."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $0 >> {tmp_path}/ran\ncat\n")
    program.chmod(0o755)

    def git(*arguments):
        config = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        subprocess.run(("git", "-C", folder, *config, *arguments), check=True, capture_output=True)

    git("init")
    (folder / ".gitattributes").write_text("* filter=evil diff=evil\n")
    (folder / "x").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "x")
    hooks = folder / "hooks"
    hooks.mkdir()
    for name in ("post-index-change", "fsmonitor-watchman", "post-checkout"):
        (hooks / name).symlink_to(program)
        (folder / ".git" / "hooks" / name).symlink_to(program)
    for key, value in PROGRAMS:
        git("config", key, value.format(program=program, folder=folder))
    os.utime(folder / "x", (1, 1))  # so that git has to look at its content
    monkeypatch.chdir(folder)
    package = tmp_path / "site" / "llmlab" / "runs" / "x.py"
    monkeypatch.setattr(provenance, "__file__", str(package))
    return folder


def test_a_hostile_repository_runs_nothing(hostile, tmp_path):
    state = provenance.git_state()
    assert state is not None and state["folder"] == str(hostile)
    assert state["dirty"] is False
    (hostile / "x").write_text("2\n")
    state = provenance.git_state()
    assert state is not None and state["dirty"] is True
    assert not (tmp_path / "ran").exists()
    # The trap works: git by itself runs the program.
    subprocess.run(["git", "-C", hostile, "status"], capture_output=True, check=False)
    assert (tmp_path / "ran").exists()


def test_somebody_elses_repository_is_not_asked(hostile, monkeypatch):
    monkeypatch.setattr(provenance.os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(provenance, "_git", lambda *given, **more: pytest.fail("git was asked"))
    assert provenance.git_state() is None


@pytest.mark.slow
def test_git_gets_the_environment_of_the_start(hostile, monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state() is not None
    code = (
        "from llmlab.runs import provenance as p; print([n for n in p._ENVIRONMENT if 'GIT_' in n])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "GIT_TRACE": "/dev/null"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_linked_worktree_is_seen(hostile, tmp_path, monkeypatch):
    command = [
        "git",
        "-C",
        hostile,
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "filter.evil.clean=cat",
    ]
    command += ["-c", "filter.evil.process=", "worktree", "add", str(tmp_path / "other")]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "ran").unlink(missing_ok=True)
    monkeypatch.chdir(tmp_path / "other")
    state = provenance.git_state()
    assert state is not None
    assert (state["folder"], state["dirty"]) == (str(tmp_path / "other"), False)
    assert not (tmp_path / "ran").exists()


def test_provenance_is_json():
    found = provenance.provenance()
    assert json.loads(json.dumps(found)) == found
    assert {"python", "numpy", "llmlab", "hydra"} <= found["versions"].keys()
    assert provenance.bits_may_differ(found, found) == {}
    assert provenance.bits_may_differ({}, found) == {}  # of an unknown past nothing is claimed


ODD = (5, None, [1], {"x": 1}, "x", [None])


@pytest.mark.parametrize("key", sorted(RUN))
def test_a_record_of_other_kinds_is_damaged(key, tmp_path):
    """Nothing that reads run.json meets a value of a kind that llmlab doesn't write."""
    sound = json.loads((FIXTURES / "run-format-2/run.json").read_text())
    told = 0
    for value in ODD:
        (tmp_path / "run.json").write_text(json.dumps(sound | {key: value}))
        try:
            assert type(read_record(tmp_path)[key]) is type(value)
        except CheckpointError as error:
            assert f"damaged: {key}=" in str(error)
            told += 1
    assert told >= 3
