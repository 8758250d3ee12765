"""Sweeps and searches on a real Ray cluster of two nodes, in two network namespaces, and alone."""

import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from clusters import (
    Sweep,
    assert_same_numbers,
    assert_six_trials,
    run,
    search,
    started,
    statuses,
)

pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'llmlab[ray]'")
NAMESPACES = os.environ.get("LLMLAB_NAMESPACES", "").split()
pytestmark = pytest.mark.clusters
SIX = ["lr=1e-3,2e-3", "seed=1,2,3", "steps=60"]
RAY = ["launcher=ray", "hydra.launcher.ray.init.address=auto"]
RAY += ["+hydra.launcher.ray.init.object_store_memory=null"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Start a head and another node, each with room for one job; return the head's namespace."""
    if not NAMESPACES:
        pytest.skip("no network namespaces here")
    ray = shutil.which("ray", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    head, other = NAMESPACES
    common = ["--block", "--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"]
    pause = {"LLMLAB_TEST_PAUSE": "0.25"}
    # All machines need the same token, which Ray would write to the user's folder.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with ExitStack() as stack:
        start = [ray, "start", "--head", "--node-ip-address=10.77.0.2", "--port=6399", *common]
        start += ["--include-dashboard=false"]
        log = tmp_path / "head.log"
        stack.enter_context(started(log, *start, inside=head, **pause))
        wait_for(log)
        start = [ray, "start", "--address=10.77.0.2:6399", "--node-ip-address=10.77.0.3", *common]
        log = tmp_path / "node.log"
        stack.enter_context(started(log, *start, inside=other, **pause))
        wait_for(log)
        yield head


def wait_for(log):
    end = time.monotonic() + 240
    while "Ray runtime started" not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


def jobs():
    """Return the processes of Ray that run a job now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_run_job"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_two_nodes_and_a_killed_worker_equal_one_process(tmp_path, cluster):
    with Sweep(tmp_path / "r", *RAY, *SIX, inside=cluster) as sweep:
        sweep.until(lambda: max(sweep.rows().values(), default=0) > 8)
        os.kill(jobs()[0], signal.SIGKILL)
        assert sweep.wait() == 0
    run(tmp_path / "basic", *SIX)
    assert_same_numbers(tmp_path / "r", tmp_path / "basic")
    assert statuses(sweep.folder) == ["finished"] * 6
    assert sum(len(each["restarts"]) for each in sweep.records().values()) == 1


def kill_a_worker_of_a_search(folder, *argv, **given):
    """Kill a worker at its trial; the other one has to take that up again."""
    pytest.importorskip("optuna", reason="pip install 'llmlab[search]'")
    with search(folder, *argv, pause=0.25, **given) as sweep:
        sweep.until(lambda: max(sweep.rows().values(), default=0) > 5)
        os.kill(jobs()[0], signal.SIGKILL)
        assert sweep.wait() == 0
    assert_six_trials(folder)


def test_a_search_goes_on_when_a_worker_is_killed(tmp_path, cluster):
    kill_a_worker_of_a_search(tmp_path / "r", *RAY, inside=cluster)


def test_a_search_on_this_machine_starts_a_ray_of_its_own(tmp_path):
    """Also where a cluster that is gone has left its address."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # names of sockets can't be long
        (Path(short) / "ray").mkdir()
        (Path(short) / "ray" / "ray_current_cluster").write_text("127.0.0.1:6399")
        kill_a_worker_of_a_search(tmp_path / "r", "launcher=ray", RAY_TMPDIR=short)
