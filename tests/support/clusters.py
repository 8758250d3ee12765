"""Sweeps through launchers, for the tests of tests/clusters/: started, watched, compared."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

SLOW = Path(__file__).parents[1] / "clusters" / "slow_down.py"
TRAINING = ["experiment=tiny", "phase=pretrain", "threads=1", "save_every=5"]
SLOWLY = [f"plugins={SLOW}", "callbacks.slow.type=slow_down"]
SEARCHED = ["data.pretrain.val_fraction=0.2", "eval_every=5", "lr=tag(log,interval(1e-4,1e-1))"]


class Sweep:
    """A command line in a process of its own; `folder` is where its sweep goes.

    `inside` is a network namespace to start it in; `training` begins its command line.
    """

    def __init__(
        self, folder, *argv, training=("-m", *TRAINING), pause=0.0, inside=None, **environment
    ):
        self.folder, self.log = folder, folder.parent / f"{folder.name}.out"
        command = [sys.executable, "-m", "llmlab", *training, *SLOWLY, *argv]
        command = [*within(inside), *command, f"hydra.sweep.dir={folder}"]
        environment |= {"LLMLAB_TEST_PAUSE": str(pause)}
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                command,
                cwd=folder.parent,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)

    def wait(self, timeout=900):
        """Return the exit code; the output is shown if the test fails."""
        code = self.process.wait(timeout)
        print(self.log.read_text())
        return code

    def records(self):
        """Return run.json of each job that has begun, by its folder's name."""
        found = {}
        for path in sorted(self.folder.glob("*/run.json")):
            found[path.parent.name] = json.loads(path.read_text())
        return found

    def rows(self):
        """Return how many steps each job has on disk."""
        files = sorted(self.folder.glob("*/metrics.jsonl"))
        return {path.parent.name: len(path.read_text().splitlines()) for path in files}

    def until(self, condition, timeout=300):
        """Wait until `condition()` holds; fail with the output if the sweep ends before."""
        end = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)


def within(namespace):
    """Return what a command begins with to run in a network namespace, if one is given."""
    return ["ip", "netns", "exec", namespace] if namespace else []


@contextmanager
def started(log, *command, inside=None, **environment):
    """Run a program and all that it starts, while open; `log` gets what it prints."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [*within(inside), *command],
            cwd=log.parent,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def search(folder, *argv, **given):
    """Start a search of six trials in two workers."""
    own = [text for text in TRAINING if text != "phase=pretrain"] + SEARCHED
    asked = ["phase=search", *own, "search.trials=6", "search.workers=2", "steps=20"]
    return Sweep(folder, *argv, training=asked, **given)


def assert_six_trials(folder):
    """Hold a search to have each of its trials once, finished, with the numbers of its run."""
    names = sorted(path.parent.name for path in folder.glob("*/result.json"))
    assert names == [f"trial-{number:04}" for number in range(6)]
    assert statuses(folder) == ["finished"] * 6
    for name in names:
        rows = (folder / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == list(range(1, 21))


def run(folder, *argv, **given):
    """Run a sweep to its end and return it."""
    sweep = Sweep(folder, *argv, **given)
    assert sweep.wait() == 0, sweep.log.read_text()
    return sweep


def assert_same_numbers(folder, other):
    """Compare the arrays of all checkpoints and metrics.jsonl, byte for byte."""
    names = sorted(path.parent.name for path in folder.glob("*/run.json"))
    assert names == sorted(path.parent.name for path in other.glob("*/run.json"))
    assert names
    for name in names:
        one, two = folder / name, other / name
        assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
        newest = max(path.name for path in (one / "checkpoints").glob("step-*.npz"))
        mine, theirs = (np.load(each / "checkpoints" / newest) for each in (one, two))
        arrays = [key for key in mine.files if mine[key].dtype.kind == "f"]
        assert arrays
        for key in arrays:
            assert mine[key].tobytes() == theirs[key].tobytes(), (name, key)


def statuses(folder):
    """Return the status of each job in the sweep's results."""
    return [json.loads(path.read_text())["status"] for path in sorted(folder.glob("*/result.json"))]


def processes(text):
    """Return the command lines of all processes that have `text` as a word, by their numbers."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if text in words:
            found[int(path.name)] = words
    return found
