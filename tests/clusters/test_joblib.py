"""Sweeps in joblib's processes, with a worker killed and with YAML that must be refused."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import Sweep, assert_same_numbers, run, statuses

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install 'llmlab[joblib]'")
pytestmark = pytest.mark.clusters


def workers(sweep):
    """Return the processes that work for a sweep."""
    children = Path(f"/proc/{sweep.process.pid}/task/{sweep.process.pid}/children").read_text()
    found = map(int, children.split())
    return [each for each in found if "LokyProcess" in Path(f"/proc/{each}/cmdline").read_text()]


def test_a_killed_worker_costs_nothing_but_time(tmp_path):
    four = ["lr=1e-3,2e-3", "seed=1,2", "steps=30"]
    joblib = ["launcher=joblib", "hydra.launcher.n_jobs=2"]
    with Sweep(tmp_path / "j", *joblib, *four, pause=0.2) as sweep:
        sweep.until(lambda: max(sweep.rows().values(), default=0) > 8)
        os.kill(workers(sweep)[0], signal.SIGKILL)
        assert sweep.wait() == 0
    assert "taken up again" in sweep.log.read_text()
    run(tmp_path / "basic", *four)
    assert_same_numbers(tmp_path / "j", tmp_path / "basic")
    assert statuses(sweep.folder) == ["finished"] * 4


def test_own_yaml_is_guarded_in_the_workers(tmp_path):
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    bomb = ["# @package _global_", "defaults: [tiny]", "prompt: ${stages.a9}", "stages:"]
    bomb += ["  a0: text"] + [f"  a{n}: {f'${{stages.a{n - 1}}}' * 10}" for n in range(1, 10)]
    (own / "bomb.yaml").write_text("\n".join(bomb))
    command = [sys.executable, "-m", "llmlab", "--config-dir", str(own.parent), "phase=pretrain"]
    command += ["experiment=bomb", "seed=1,2"]
    seen = []
    for launcher in ([], ["launcher=joblib", "hydra.launcher.n_jobs=2"]):
        done = subprocess.run(
            [*command, "-m", *launcher], cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
        seen.append((done.returncode, "references expand to more" in done.stderr + done.stdout))
    assert seen == [(2, True), (2, True)]
