"""Sweeps on real Dask clusters: local, and of two nodes in two network namespaces."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from clusters import (
    SLOW,
    Sweep,
    assert_same_numbers,
    assert_six_trials,
    processes,
    run,
    search,
    started,
    statuses,
)

pytest.importorskip("distributed", reason="pip install 'llmlab[dask]'")
pytestmark = pytest.mark.clusters
SIX = ["lr=1e-3,2e-3", "seed=1,2,3", "steps=30"]
NAMESPACES = os.environ.get("LLMLAB_NAMESPACES", "").split()


@pytest.fixture
def cluster(tmp_path):
    """Return the address of a scheduler with two workers, on two nodes if there are any."""
    if not NAMESPACES:
        print("no network namespaces here: both workers are on this node")
    address = "tcp://10.77.0.1:18786" if NAMESPACES else "tcp://127.0.0.1:18786"
    host = address.partition("//")[2].partition(":")[0]
    dask = [sys.executable, "-m"]
    scheduler = ["distributed.cli.dask_scheduler", "--host", host, "--port", "18786"]
    pause = {"LLMLAB_TEST_PAUSE": "0.15"}
    with ExitStack() as stack:
        log = tmp_path / "scheduler.log"
        stack.enter_context(started(log, *dask, *scheduler, "--no-dashboard"))
        for number, inside in enumerate(NAMESPACES or [None, None]):
            worker = ["distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
            worker += ["--local-directory", str(tmp_path / f"w{number}")]
            log = tmp_path / f"w{number}.log"
            stack.enter_context(started(log, *dask, *worker, inside=inside, **pause))
        yield address


def jobs():
    """Return the processes of jobs, and of each the worker of Dask that started it."""
    return {job: int(words[-2]) for job, words in processes("llmlab.cli.one_job").items()}


def test_two_nodes_and_a_killed_worker_equal_one_process(tmp_path, cluster):
    with Sweep(tmp_path / "d", "launcher=dask", f"hydra.launcher.address={cluster}", *SIX) as sweep:
        sweep.until(lambda: max(sweep.rows().values(), default=0) > 5)
        job, worker = next(iter(jobs().items()))
        os.kill(worker, signal.SIGKILL)
        end = time.monotonic() + 120
        while job in jobs():  # no orphan lives on
            assert time.monotonic() < end
            time.sleep(0.05)
        assert sweep.wait() == 0
    run(tmp_path / "basic", *SIX)
    assert_same_numbers(tmp_path / "d", tmp_path / "basic")
    assert statuses(sweep.folder) == ["finished"] * 6
    assert sum(len(each["restarts"]) for each in sweep.records().values()) == 1


def test_a_search_goes_on_when_a_worker_is_killed(tmp_path, cluster):
    given = ["launcher=dask", f"hydra.launcher.address={cluster}"]
    with search(tmp_path / "d", *given) as sweep:
        sweep.until(lambda: max(sweep.rows().values(), default=0) > 5)
        os.kill(next(iter(jobs().values())), signal.SIGKILL)
        assert sweep.wait() == 0
    assert_six_trials(tmp_path / "d")


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_jobs_on_the_cluster_end_with_the_sweep_and_resume_goes_on(tmp_path, cluster, how, code):
    sent = ["launcher=dask", f"hydra.launcher.address={cluster}", "seed=1,2", "steps=200"]
    with Sweep(tmp_path / "d", *sent) as sweep:
        sweep.until(lambda: len(sweep.rows()) == 2 and min(sweep.rows().values()) > 2)
        sweep.process.send_signal(how)
        assert sweep.wait() == code
    end = time.monotonic() + 120
    while jobs():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert [each["status"] for each in sweep.records().values()] == ["stopped"] * 2
    command = [sys.executable, "-m", "llmlab", f"resume={tmp_path / 'd'}", "steps=20"]
    command += ["launcher=dask", f"hydra.launcher.address={cluster}"]
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
    assert statuses(sweep.folder) == ["finished"] * 2


def test_a_local_cluster_ends_with_a_sweep_that_is_killed(tmp_path):
    local = ["launcher=dask", "hydra.launcher.workers=2", "seed=1,2", "steps=60"]
    with Sweep(tmp_path / "d", *local, pause=0.2) as sweep:
        sweep.until(lambda: len(sweep.rows()) == 2 and min(sweep.rows().values()) > 2)
        sweep.process.kill()
        sweep.process.wait()
        end = time.monotonic() + 120
        while jobs():
            assert time.monotonic() < end
            time.sleep(0.05)
    run(tmp_path / "d", *local)
    assert statuses(sweep.folder) == ["finished"] * 2


def test_auto_seeds_plug_ins_and_own_yaml_reach_the_workers(tmp_path, monkeypatch):
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    # `steps` replaces the preset's epochs only if the workers read it as the sweep does.
    (own / "mine.yaml").write_text("# @package _global_\ndefaults: [tiny]\nsteps: 8\nthreads: 1\n")
    command = [sys.executable, "-m", "llmlab", "--config-dir", str(tmp_path / "own")]
    command += ["experiment=mine", "phase=pretrain", "lr=1e-3,1e-2", "seeds=auto"]
    command += ["study.max_seeds=3", f"plugins={SLOW}", "callbacks.slow.type=slow_down"]
    for name, launcher in (
        ("basic", []),
        ("dask", ["launcher=dask", "hydra.launcher.workers=2"]),
    ):
        done = subprocess.run(
            [*command, *launcher, f"hydra.sweep.dir={tmp_path / name}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert_same_numbers(tmp_path / "dask", tmp_path / "basic")
    tables = [(tmp_path / each / "summary.csv").read_text() for each in ("dask", "basic")]
    assert [len(table.splitlines()) for table in tables] == [3, 3]
