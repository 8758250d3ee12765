"""A disk that is full, by a limit on the size of files: nothing saved is lost, and it goes on."""

import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import finished_run, small_lab  # noqa: F401

import llmlab
from llmlab.checkpoints import load


def command(folder, *argv, limit=None):
    """Run a command line in a process that can write no file beyond `limit` bytes."""

    def restrict():
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        )

    package = str(Path(llmlab.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "llmlab", *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": package, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=restrict if limit else None,
        capture_output=True,
        text=True,
        timeout=60,
    )


def errors(done):
    return [line for line in done.stderr.splitlines() if line.startswith(("error", "continue"))]


def checkpoints(run):
    return {path.name: path.read_bytes() for path in sorted((run / "checkpoints").glob("*.npz"))}


def assert_it_goes_on(lab, done, steps):
    """Run the command that the message gives, now that there is room again."""
    told, advice = errors(done)
    assert told.startswith("error: ")
    assert "File too large; what was saved before is intact" in told
    assert advice == "continue with: python -m llmlab resume=run"
    python, *argv = shlex.split(advice.partition("continue with: ")[2])
    again = command(lab.folder, *argv[2:])
    assert (python, again.returncode) == ("python", 0), again.stderr
    run = lab.folder / "run"
    assert load(run / "checkpoints" / f"step-{steps:06}.npz").meta["step"] == steps
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    rows = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, steps + 1))


@pytest.mark.slow
def test_a_checkpoint_that_has_no_room_costs_nothing_that_was_saved(lab):
    run = lab.folder / "run"
    before = checkpoints(run)
    limit = (run / "checkpoints" / "step-000002.npz").stat().st_size - 1000
    done = command(lab.folder, "resume=run", "steps=6", limit=limit)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert "run/checkpoints/step-000003.npz: cannot be written" in done.stderr
    assert checkpoints(run) == before
    assert not list(run.rglob(".*.tmp"))
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert_it_goes_on(lab, done, 6)


@pytest.mark.slow
def test_metrics_and_a_log_that_have_no_room_cost_nothing_either(lab):
    assert lab("resume=run", "steps=40").code == 0  # metrics larger than run.json
    run = lab.folder / "run"
    before = checkpoints(run)
    limit = (run / "metrics.jsonl").stat().st_size + 60
    with (run / "log").open("a") as log:
        log.write("x" * limit)
    done = command(lab.folder, "resume=run", "steps=45", "save_every=99", limit=limit)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert "run/metrics.jsonl: cannot be written" in done.stderr
    assert checkpoints(run) == before
    assert_it_goes_on(lab, done, 45)
