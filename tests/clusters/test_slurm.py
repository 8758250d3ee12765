"""Sweeps and batch scripts on a real SLURM, which tests/clusters.sh starts."""

import os
import signal
import subprocess
import time

import pytest
from clusters import Sweep, assert_same_numbers, run, statuses

pytestmark = [
    pytest.mark.clusters,
    pytest.mark.skipif("LLMLAB_SLURM" not in os.environ, reason="tests/clusters.sh starts SLURM"),
]
LOW = ["launcher=slurm", "hydra.launcher.partition=low"]
SIX = ["lr=1e-3,2e-3", "seed=1,2,3"]


def slurm(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def queue(*options):
    return slurm("squeue", "-h", "-r", *options).split()


def test_six_jobs_with_preemption_and_a_time_limit_equal_those_of_one_process(tmp_path):
    limit = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20"]
    with Sweep(tmp_path / "slurm", *LOW, *limit, *SIX, "steps=90", pause=0.5) as sweep:
        sweep.until(lambda: len(sweep.rows()) == 6 and min(sweep.rows().values()) > 2)
        # All six processors are in use, so two jobs have to go.
        slurm("sbatch", "-p", "high", "-n", "2", "-o", "/dev/null", "--wrap", "sleep 3")
        taken = {name for name, each in sweep.records().items() if each["status"] == "preempted"}
        while len(taken) < 2:
            time.sleep(0.1)
            taken = {n for n, each in sweep.records().items() if each["status"] == "preempted"}
        assert sweep.wait() == 0
    run(tmp_path / "basic", *SIX, "steps=90")
    assert_same_numbers(tmp_path / "slurm", tmp_path / "basic")
    assert statuses(sweep.folder) == ["finished"] * 6
    restarts = [len(each["restarts"]) for each in sweep.records().values()]
    assert sum(restarts) >= 3  # two were preempted, and the limit came for others


def test_ctrl_c_cancels_the_jobs_and_resume_goes_on(tmp_path):
    with Sweep(tmp_path / "s", *LOW, "seed=1,2", "steps=40", pause=0.5) as sweep:
        sweep.until(lambda: len(sweep.rows()) == 2 and min(sweep.rows().values()) > 2)
        sweep.process.send_signal(signal.SIGINT)
        assert sweep.wait() == 130
    end = time.monotonic() + 30
    while queue("-t", "running,pending,completing"):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert [each["status"] for each in sweep.records().values()] == ["preempted"] * 2
    assert run(tmp_path / "s", *LOW, "seed=1,2", "steps=40")
    assert statuses(sweep.folder) == ["finished"] * 2
    assert [len(each["restarts"]) for each in sweep.records().values()] == [1, 1]
