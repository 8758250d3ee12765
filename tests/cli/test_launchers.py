"""Launchers without an engine: lost jobs, orders, what workers take with them, who waits for whom.

`tests/clusters.sh` runs sweeps through the engines themselves.
"""

import copy
import json
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from types import SimpleNamespace

import pytest
from command_line import command_line
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from llmlab.cli import one_job, sweep_job
from llmlab.cli.home import Home, WorkerLoader
from llmlab.cli.launcher_dask import DaskLauncher
from llmlab.cli.lost_jobs import CANCELLED, LOST, launched
from llmlab.cli.order import OneJob, Order
from llmlab.cli.start import register_resolvers
from llmlab.errors import ConfigError, ResourceError, Stopped
from llmlab.runs.lock import RunLock
from llmlab.runs.log import status_of
from llmlab.runs.sweep import Jobs, read_result, write_result


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("llmlab.report.study_page.can_draw", lambda: False)  # takes long
    return command_line(tmp_path, monkeypatch, capsys)


def test_a_worker_of_the_same_number_elsewhere_is_not_at_home():
    here = Home.here()
    assert here.is_here and not copy.deepcopy(here).is_here
    assert not Home(here.process + 1, here.folder, here.path).is_here


BATCH = [["seed=1"], ["seed=2"], ["seed=3"]]


def jobs_in(folder, *tokens):
    return Jobs(folder, [*tokens, "seed=1,2,3"], ["seed"])


def engine(jobs, *rounds):
    """Return a launcher whose jobs end as `rounds` say, and the batches that it was given."""
    seen, plan = [], iter(rounds)

    def launch(batch, number):
        seen.append([tokens[0] for tokens in batch])
        found = []
        for tokens, status in zip(batch, next(plan), strict=True):
            if isinstance(status, str):
                about = {"status": status, "overrides": sweep_job.shown(tokens), "task": tokens}
                write_result(jobs.folder / jobs.name(tokens), about)
            ended = JobReturn() if status == "finished" else LOST
            found.append(CANCELLED if status is CANCELLED else ended)
        if all(each is LOST for each in found):
            raise BrokenExecutor
        return found

    return launch, seen


def results(jobs):
    return [(read_result(jobs.folder / jobs.name(tokens)) or {}).get("status") for tokens in BATCH]


def test_lost_and_preempted_jobs_are_launched_again_and_others_are_not(tmp_path):
    jobs = jobs_in(tmp_path)
    rounds = (["finished", None, "preempted"], ["failed", None], ["finished"])
    launch, seen = engine(jobs, *rounds)
    assert len(list(launched(launch, BATCH, 0, jobs))) == 2
    assert seen == [["seed=1", "seed=2", "seed=3"], ["seed=2", "seed=3"], ["seed=3"]]
    assert results(jobs) == ["finished", "failed", "finished"]


def test_a_job_that_kills_every_worker_fails_with_the_reason(tmp_path):
    jobs = jobs_in(tmp_path)
    launch, seen = engine(jobs, ["finished", None, "finished"], [None], [None], [None])
    list(launched(launch, BATCH, 0, jobs))
    assert len(seen) == 4
    assert results(jobs) == ["finished", "failed", "finished"]
    result = read_result(tmp_path / jobs.name(["seed=2"]))
    assert result is not None
    assert (result["error"][:25], result["exit_code"]) == ("its worker died 3 times, ", 5)


def test_no_result_is_left_where_folders_have_other_names(tmp_path):
    jobs = jobs_in(tmp_path, "hydra.sweep.subdir=x")
    launch, _ = engine(jobs, *[[None] * 3] * 3)
    with pytest.raises(ResourceError, match="died 3 times"):
        list(launched(launch, BATCH, 0, jobs))
    assert results(jobs) == [None] * 3


def test_a_cancelled_job_is_left_alone(tmp_path):
    jobs = jobs_in(tmp_path)
    launch, seen = engine(jobs, ["finished", CANCELLED, CANCELLED])
    list(launched(launch, BATCH, 0, jobs))
    assert len(seen) == 1
    assert results(jobs) == ["finished", "stopped", "stopped"]


def test_errors_of_an_engine_that_say_no_worker_was_lost_are_raised(tmp_path):
    def launch(batch, number):
        raise ResourceError("no such partition")

    with pytest.raises(ResourceError, match="partition"):
        list(launched(launch, BATCH, 0, jobs_in(tmp_path)))


def order(folder, *tokens, **record):
    tokens = [*tokens, "-m", "seed=1,2"]
    given = [text for text in tokens if text != "-m"] + [f"hydra.sweep.dir='{folder}'"]
    jobs = Jobs(folder, given, ["seed"])
    record = {"overrides": given, "varying": ["seed"], "changed": {}} | record
    return Order(["-m"], tokens, jobs, record)


def run_one(text):
    register_resolvers()
    return one_job.run(OneJob.of(text))


@pytest.mark.slow
def test_a_job_ordered_as_json_is_that_of_the_sweep(lab):
    assert lab("-m", "phase=tune", "lr=0.001", "seed=1,2", "hydra.sweep.dir=here").code == 0
    text = order(lab.folder / "there", "phase=tune", "lr=0.001").of_job(
        ["phase=tune", "lr=0.001", "seed=2"], 1
    )
    assert run_one(json.dumps(json.loads(text))) == 0
    (job,) = (lab.folder / "there").glob("seed*")
    twin = lab.folder / "here" / job.name
    assert (job / "config.yaml").read_bytes() == (twin / "config.yaml").read_bytes()
    ours, theirs = ({**read_result(each), "seconds": 0} for each in (job, twin))
    assert ours == theirs
    assert json.loads((lab.folder / "there" / "sweep.json").read_text())["varying"] == ["seed"]


def test_what_a_worker_cannot_compose_is_the_jobs_result(lab):
    text = order(lab.folder / "s", "phase=tune", "experiment=gone").of_job(
        ["phase=tune", "experiment=gone", "seed=1"], 0
    )
    assert run_one(text) == 2
    (job,) = (lab.folder / "s").glob("seed*")
    assert "experiment=gone: unknown experiment" in read_result(job)["error"]


def test_a_worker_stands_where_the_sweep_was_started(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    Home(0, str(tmp_path), ("/somewhere",)).enter()
    assert (os.getcwd(), sys.path[-1]) == (str(tmp_path), "/somewhere")
    with pytest.raises(ResourceError, match="folder that all machines share"):
        Home(0, str(tmp_path / "elsewhere"), ()).enter()


def test_a_worker_guards_what_it_composes(tmp_path, monkeypatch):
    """Launchers compose in processes that haven't got this one's guard."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    guards = []

    def compose(self, master, overrides):
        guards.append(ConfigLoaderImpl._load_single_config.__module__)
        raise ConfigError("mine.yaml: refused")

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", compose)
    monkeypatch.setattr(sys, "path", [*sys.path])
    jobs, here = jobs_in(tmp_path), Home.here()
    there = Home(1, here.folder, here.path)
    for home in (here, there):
        with pytest.raises(ConfigError):
            WorkerLoader(OmegaConf.create(), home, jobs).load_sweep_config(None, ["seed=1"])
    assert guards == ["hydra._internal.config_loader_impl", "llmlab.cli.user_yaml"]
    result = read_result(tmp_path / jobs.name(["seed=1"]))
    assert result is not None
    assert result["error"] == "mine.yaml: refused"  # also where nobody can be told


@pytest.mark.slow
def test_a_job_waits_for_whoever_still_works_on_it(lab, monkeypatch):
    """As for a worker that saves, while its job is already given to another one."""
    sweep = ["-m", "phase=tune", "seed=1", "hydra.sweep.dir=s"]
    assert lab(*sweep).code == 0
    (job,) = (lab.folder / "s").glob("*/run.json")
    (job.parent / "result.json").unlink()
    lock, waited = RunLock(job.parent / "lock"), []
    assert lab(*sweep).code == 5  # in one process it's somebody else
    (job.parent / "result.json").unlink()

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 4:
            lock.release()

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
    monkeypatch.setattr(sweep_job, "time", clock)
    monkeypatch.setattr(sweep_job, "_launcher", lambda: "dask")
    answer = lab(*sweep)
    assert (answer.code, waited) == (0, [0.2, 0.2, 0.5, 1.0])
    assert "is working on this run; this job waits for it" in answer.out + answer.err
    assert read_result(job.parent)["status"] == "finished"


def test_under_slurm_sigterm_means_preempted(monkeypatch):
    codes = (130, 138, 140, 143)
    for job, last in ((None, "stopped"), ("7", "preempted")):
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        if job is not None:
            monkeypatch.setenv("SLURM_JOB_ID", job)
        found = [status_of(Stopped("saved", code)) for code in codes]
        assert found == ["stopped", "preempted", "preempted", last]


def test_a_preempted_job_returns_to_slurm_without_a_result(monkeypatch):
    monkeypatch.delenv("SUBMITIT_PREEMPT_SIGNAL", raising=False)
    asked = []
    before = signal.signal(signal.SIGUSR2, lambda *given: asked.append("requeue"))
    try:
        for number in (signal.SIGTERM, signal.SIGUSR2):
            with pytest.raises(SystemExit) as end:
                sweep_job._leave_to_slurm(number)
            assert end.value.code == 128 + number
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert asked == ["requeue"]


CHILD = """
import os, time
from llmlab.signals import end_with
end_with(os.getppid())
print(flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-S", "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's end")
def test_a_process_ends_with_the_one_that_started_it():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-S", "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        watched = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
    assert select.select([watched], [], [], 20)[0]  # it can be read when that process has ended
    os.close(watched)


@pytest.mark.parametrize("workers", [0, -1, "two"])
def test_a_number_of_workers_is_checked(workers, tmp_path):
    with pytest.raises(ConfigError, match=r"hydra.launcher.workers=.*: expected a number"):
        DaskLauncher(order(tmp_path), workers=workers)


def test_slurms_states_are_read_without_accounting(monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    from llmlab.cli import launcher_slurm

    listed = iter(
        [
            "8|8_0|RUNNING\n9|8_1|PENDING\n",
            None,  # the controller is away
            "8|8_0|COMPLETED\n9|8_1|RUNNING\n10|8_2|CANCELLED\n",
            "8|8_0|COMPLETED\n9|8_1|FAILED\n10|8_2|CANCELLED\n",
        ]
    )
    monkeypatch.setattr(launcher_slurm, "_slurm", lambda *command: next(listed))
    monkeypatch.setattr(launcher_slurm.time, "sleep", lambda seconds: None)
    states = launcher_slurm._wait("name", ["8_0", "8_1", "8_2"])
    assert states == {"8_0": "COMPLETED", "8_1": "FAILED", "8_2": "CANCELLED"}
    outcomes = [launcher_slurm._outcome(state) for state in states.values()]
    assert outcomes[1:] == [LOST, CANCELLED]
    assert [outcome is LOST for outcome in outcomes] == [False, True, False]
