"""Sweeps and batch scripts on a real SLURM, which tests/clusters.sh starts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clusters import (
    SLOWLY,
    Sweep,
    assert_same_numbers,
    assert_six_trials,
    processes,
    run,
    search,
    statuses,
)

pytestmark = [
    pytest.mark.clusters,
    pytest.mark.skipif("LLMLAB_SLURM" not in os.environ, reason="tests/clusters.sh starts SLURM"),
]
LOW = ["launcher=slurm", "hydra.launcher.partition=low"]
SIX = ["lr=1e-3,2e-3", "seed=1,2,3"]


def slurm(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def until(condition, timeout):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, slurm("squeue")
        time.sleep(0.1)


def record(folder):
    return json.loads((folder / "run.json").read_text())


def status(sweep):
    return (each["status"] for each in sweep.records().values())


def code_blocks(name):
    text = (Path(__file__).parents[2] / "docs" / name).read_text()
    return re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def queue(*options):
    return slurm("squeue", "-h", "-r", *options).split()


def test_six_jobs_with_preemption_and_a_time_limit_equal_those_of_one_process(tmp_path):
    limit = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=29"]
    with Sweep(tmp_path / "slurm", *LOW, *limit, *SIX, "steps=75", pause=0.45) as sweep:
        sweep.until(lambda: len(sweep.rows()) == 6 and min(sweep.rows().values()) > 2)
        # All six processors are in use, so two jobs have to go.
        slurm("sbatch", "-p", "high", "-n", "2", "-o", "/dev/null", "--wrap", "sleep 3")
        sweep.until(lambda: list(status(sweep)).count("preempted") >= 2)
        assert sweep.wait() == 0
    run(tmp_path / "basic", *SIX, "steps=75")
    assert_same_numbers(tmp_path / "slurm", tmp_path / "basic")
    assert statuses(sweep.folder) == ["finished"] * 6
    restarts = [len(each["restarts"]) for each in sweep.records().values()]
    assert sum(restarts) >= 3  # two were preempted, and the limit came for others


def test_ctrl_c_cancels_the_jobs_and_resume_goes_on(tmp_path):
    with Sweep(tmp_path / "s", *LOW, "seed=1,2", "steps=40", pause=0.5) as sweep:
        sweep.until(lambda: len(sweep.rows()) == 2 and min(sweep.rows().values()) > 2)
        sweep.process.send_signal(signal.SIGINT)
        assert sweep.wait() == 130
    end = time.monotonic() + 120
    while queue("-t", "running,pending,completing"):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert [each["status"] for each in sweep.records().values()] == ["preempted"] * 2
    assert run(tmp_path / "s", *LOW, "seed=1,2", "steps=40")
    assert statuses(sweep.folder) == ["finished"] * 2
    assert [len(each["restarts"]) for each in sweep.records().values()] == [1, 1]


def test_a_sweep_that_was_killed_waits_for_its_jobs_when_it_is_started_again(tmp_path):
    two = [*LOW, "seed=1,2", "steps=60"]
    with Sweep(tmp_path / "s", *two, pause=0.3) as sweep:
        sweep.until(lambda: len(sweep.rows()) == 2 and min(sweep.rows().values()) > 2)
        sweep.process.kill()
        sweep.process.wait()
    again = run(tmp_path / "s", *two)
    assert statuses(again.folder) == ["finished"] * 2
    assert [each["restarts"] for each in again.records().values()] == [[], []]  # one did it all
    logs = [path.read_text() for path in again.folder.glob(".submitit/*/*_log.*")]
    assert sum("this job waits for it" in text for text in logs) >= 1


def test_a_killed_job_seeds_auto_plug_ins_and_own_yaml(tmp_path):
    own = tmp_path / "own"
    (own / "launcher").mkdir(parents=True)
    (own / "launcher" / "ours.yaml").write_text(
        "# @package _global_\ndefaults: [slurm]\nhydra: {launcher: {partition: low}}\n"
    )
    (own / "experiment").mkdir()
    # `steps` replaces the preset's epochs only if the workers read it as the sweep does.
    (own / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [tiny]\nsteps: 20\n"
    )
    auto = ["experiment=mine", "lr=1e-3,1e-2", "seeds=auto", "study.max_seeds=3"]
    flags = ["--config-dir", str(own)]
    with Sweep(tmp_path / "slurm", *flags, "launcher=ours", *auto, pause=0.3) as sweep:
        sweep.until(lambda: max(sweep.rows().values(), default=0) > 6)
        of_jobs = processes("submitit.core._submit").items()
        os.kill(next(job for job, words in of_jobs if "srun" not in words[0]), signal.SIGKILL)
        assert sweep.wait() == 0
    assert "taken up again" in sweep.log.read_text()
    run(tmp_path / "basic", *flags, *auto)
    assert_same_numbers(tmp_path / "slurm", tmp_path / "basic")


def test_no_command_is_hidden_in_a_name(tmp_path):
    partition = "hydra.launcher.partition='a\ntouch b'"
    with Sweep(tmp_path / "s", "launcher=slurm", partition) as sweep:
        assert sweep.wait() == 2
    assert "must be one line" in sweep.log.read_text()


def test_the_batch_scripts_of_the_documentation(tmp_path, monkeypatch):
    scripts = [text for text in code_blocks("clusters.md") if text.startswith("#!/bin/bash")]
    assert len(scripts) == 3
    # They run as they stand, with a `python` that takes its time.
    slow = ["steps=90", *SLOWLY]
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" {" ".join(slow)}\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{python.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LLMLAB_TEST_PAUSE", "0.5")
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(scripts):
        (tmp_path / f"{number}.sh").write_text(text)
        slurm("sbatch", f"{number}.sh")
    runs = tmp_path / "runs"
    names = ["preempted", "limited", *(f"array/seed-{seed}" for seed in (1, 2, 3))]
    until(lambda: all((runs / name / "metrics.jsonl").is_file() for name in names), 300)
    slurm("sbatch", "-p", "high", "-n", "6", "-o", "/dev/null", "--wrap", "sleep 3")
    until(lambda: all(record(runs / name)["status"] == "preempted" for name in names), 300)
    until(lambda: all(record(runs / name)["status"] == "finished" for name in names), 600)
    assert len(record(runs / "limited")["restarts"]) >= 2  # preempted, and the limit
    assert len(record(runs / "preempted")["restarts"]) == 1
    monkeypatch.setenv("LLMLAB_TEST_PAUSE", "0")
    command = ["-m", "llmlab", "phase=pretrain", "experiment=tiny", *slow, "resume=undisturbed"]
    subprocess.run([sys.executable, *command], check=True)
    rows = (tmp_path / "undisturbed" / "metrics.jsonl").read_bytes()
    for name in ("preempted", "limited"):
        assert (runs / name / "metrics.jsonl").read_bytes() == rows


def test_a_search_in_two_jobs(tmp_path):
    with search(tmp_path / "s", *LOW) as sweep:
        assert sweep.wait() == 0
    assert_six_trials(tmp_path / "s")
