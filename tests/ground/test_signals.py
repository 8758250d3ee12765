"""Signals to real processes: what is saved, what is said, what stays behind, what goes on."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import GOOD, KEYS

import llmlab
from llmlab.checkpoints import load
from llmlab.runs.lock import RunLock
from llmlab.signals import Interrupted, Repeats, Signals, interruptible

# A schedule that waits in the third step, as long as the test wants it to.
PLUGIN = """
import os, pathlib, time
from llmlab.optim import SCHEDULES

@SCHEDULES.register("held")
def held(warmup_steps: int = 0, hold: bool = True):
    def factor(step):
        if step == 2 and hold:
            pathlib.Path(f"reached-{os.getpid()}").touch()
            while pathlib.Path("hold").exists():
                time.sleep(0.005)
        return 1.0
    return factor
"""
HELD = [*KEYS, "plugins=held.py", "schedule.type=held", "steps=5", "log_every=1"]
PATIENCE = 60.0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "held.py").write_text(PLUGIN)
    (tmp_path / "good.txt").write_text(GOOD)
    (tmp_path / "hold").touch()
    return tmp_path


class Process:
    """A command line at work in a folder; ended with the test, whatever happens."""

    def __init__(self, folder, *argv):
        package = str(Path(llmlab.__file__).parent.parent)
        self.folder, self._told = folder, folder / "told"
        # Into a file: a pipe would stay open as long as an orphan lives, and hang the test.
        with self._told.open("w") as told:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "llmlab", *argv],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": package},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=told,
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        (self.folder / "hold").unlink(missing_ok=True)
        self.popen.kill()
        self.popen.wait()

    def reached(self, count=1):
        """Wait until `count` processes are in their third step; return their numbers."""

        def held():
            assert self.popen.poll() is None, self._told.read_text()
            found = [int(path.name.split("-")[1]) for path in self.folder.glob("reached-*")]
            return found if len(found) == count else None

        return until(held)

    def send(self, *signals):
        for each in signals:
            self.popen.send_signal(each)
            time.sleep(0.05)

    def end(self):
        """Return the exit code and the lines of stderr."""
        (self.folder / "hold").unlink(missing_ok=True)
        return self.wait()

    def wait(self):
        code = self.popen.wait(timeout=PATIENCE)
        return code, self._told.read_text().splitlines()


def until(condition):
    """Return what `condition` returns once it is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it never came to pass")


def gone(pid):
    """Tell whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def children(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def status(run):
    return json.loads((run / "run.json").read_text())["status"]


def newest(run):
    return load(max((run / "checkpoints").glob("step-*.npz"))).meta["step"]


def go_on(folder, line):
    """Run the command that a message advises."""
    python, *argv = shlex.split(line.partition("continue with: ")[2])
    assert python == "python", line
    package = str(Path(llmlab.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "how", "threads"),
    [
        (signal.SIGTERM, "stopped", 2),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in (
                (signal.SIGINT, "stopped", 1),
                (signal.SIGINT, "stopped", 2),
                (signal.SIGUSR1, "preempted", 1),
                (signal.SIGUSR2, "preempted", 2),
            )
        ),
    ],
)
def test_a_signal_lets_the_step_end_saves_and_says_how_to_go_on(folder, what, how, threads):
    keys = [key for key in HELD if key != "threads=1"]
    with Process(folder, *keys, f"threads={threads}", "hydra.run.dir=it's a run") as process:
        process.reached()
        process.send(what)
        code, lines = process.end()
    run = folder / "it's a run"
    assert code == 128 + what, lines
    assert lines[-1].startswith(f"stopped by {what.name}, saved at step 3 of 5; continue with: ")
    assert (status(run), newest(run)) == (how, 3)
    done = go_on(folder, lines[-1])
    assert done.returncode == 0, done.stderr
    assert (status(run), newest(run)) == ("finished", 5)


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(folder):
    with Process(folder, *HELD, "hydra.run.dir=run") as process:
        process.reached()
        process.send(signal.SIGTERM, signal.SIGINT)
        assert process.wait()[0] == 130  # while it is still held
    assert newest(folder / "run") == 2
    RunLock(folder / "run" / "lock").release()


def test_a_signal_sent_twice_is_one():
    """As srun sends it: only somebody at a keyboard means more by the second."""
    repeats = Repeats()
    numbers = (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGINT)
    assert [repeats.is_one(number) for number in numbers] == [False, True, False, False, False]
    with Signals() as signals:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert (signals.received, signals.exit_code) == (signal.SIGTERM, 143)
    with pytest.raises(Interrupted), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_much_later_is_another_one(monkeypatch):
    repeats = Repeats()
    times = iter([0.0, 2.5, 3.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    assert [repeats.is_one(signal.SIGTERM) for _ in range(3)] == [False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_second_sigterm_lets_the_step_end_and_saves(folder, threads):
    keys = [key for key in HELD if key != "threads=1"]
    with Process(folder, *keys, f"threads={threads}", "hydra.run.dir=run") as process:
        process.reached()
        process.send(signal.SIGTERM, signal.SIGTERM)
        code, lines = process.end()
    assert code == 143, lines
    assert (status(folder / "run"), newest(folder / "run")) == ("stopped", 3)


@pytest.mark.slow
@pytest.mark.parametrize("what", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_before_the_first_step_is_obeyed_at_once(folder, what):
    os.mkfifo(folder / "pipe.txt")
    slow = "import time; time.sleep(1e3)"
    (folder / "sleep.py").write_text(
        "import time, pathlib\nfrom llmlab.text import DATASETS\n"
        "@DATASETS.register('sleepy')\ndef sleepy(path: str):\n"
        f"    pathlib.Path('reached-1').touch()\n    {slow}\n"
    )
    keys = ["plugins=sleep.py", "~data.pretrain", "+data.pretrain={type: sleepy, path: good.txt}"]
    keys += ["tokenizer.corpus=[good.txt]"]
    with Process(folder, *KEYS[:1], *KEYS[2:], *keys, "hydra.run.dir=run") as process:
        process.reached()
        process.send(what)
        code, lines = process.wait()
    assert code == 128 + what
    assert lines[-2:] == [
        f"stopped by {what.name}",
        "continue with: python -m llmlab resume=run",
    ]
    assert status(folder / "run") == ("preempted" if what == signal.SIGUSR1 else "stopped")


@pytest.mark.slow
def test_a_killed_run_leaves_no_worker_and_no_lock(folder):
    keys = [key for key in HELD if key != "threads=1"]
    with Process(folder, *keys, "threads=2", "hydra.run.dir=run") as process:
        process.reached()
        workers = children(process.popen.pid)
        assert workers
        process.popen.kill()
        process.popen.wait()
        until(lambda: all(map(gone, workers)))
        RunLock(folder / "run" / "lock").release()
    assert status(folder / "run") == "running"  # nobody could say otherwise
    with Process(folder, "resume=run") as process:
        assert process.end()[0] == 0
    assert (status(folder / "run"), newest(folder / "run")) == ("finished", 5)


def start_sweep(folder):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    keys = ["launcher=joblib", "hydra.launcher.n_jobs=3", "-m", "schedule.hold=false,true"]
    return Process(folder, *HELD, *keys, "seed=1,2", "hydra.sweep.dir=s")


def two_of_four_finished(folder):
    """Wait until this is so; return those two and the other two."""
    until(lambda: len(list(folder.glob("s/*false*/result.json"))) == 2)
    jobs = {path.parent for path in folder.glob("s/*/run.json")}
    done = {job for job in jobs if "false" in job.name}
    return done, jobs - done


def assert_it_goes_on(folder, done, held):
    for job in held:
        RunLock(job / "lock").release()
    before = {job: (job / "run.json").read_bytes() for job in done}
    with Process(folder, "resume=s") as process:
        code, lines = process.end()
    assert code == 0, lines
    assert {status(job) for job in done | held} == {"finished"}
    assert all((job / "run.json").read_bytes() == text for job, text in before.items())  # skipped


@pytest.mark.slow
@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_sweep_leaves_no_worker_and_no_lock_and_goes_on(folder, what):
    with start_sweep(folder) as process:
        workers = process.reached(2)
        done, held = two_of_four_finished(folder)
        process.send(what)
        code, lines = process.wait()  # while two jobs are still held
        until(lambda: all(map(gone, workers)))
    assert code == 128 + what, lines
    assert "stopped; continue with: python -m llmlab resume=s" in lines
    assert "Traceback" not in "\n".join(lines)
    assert_it_goes_on(folder, done, held)


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_worker_and_no_lock_and_goes_on(folder):
    with start_sweep(folder) as process:
        workers = process.reached(2)
        done, held = two_of_four_finished(folder)
        process.popen.kill()
        process.popen.wait()
        (folder / "hold").unlink()
        until(lambda: all(map(gone, workers)))
    assert {status(job) for job in held} == {"stopped"}
    assert_it_goes_on(folder, done, held)
