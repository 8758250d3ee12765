"""Training on a text needs no more memory because the text is larger.

python tests/text/test_memory.py [MEGABYTES ...]    # peaks for texts of other sizes
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

SMALL, LARGE, MORE = 5, 150, 300  # megabytes: two texts, and what the promise allows
RUN = (
    *("phase=pretrain", "data=text", "tokenizer=char", "template=none", "experiment=tiny"),
    *("epochs=null", "steps=30", "threads=2", "model.max_seq_len=32"),
    *("data.pretrain.path=text.txt", "data.pretrain.cache=tokens"),
)
VALIDATION = 10_000  # letters, so that measuring takes no longer on a large text
BLOCK = "".join(f"{n * n % 9973} ways to say {n:o}, and so on.\n" for n in range(30_000))


def write(path, megabytes):
    """Write a text of the same letters, whatever its size."""
    left = megabytes * 10**6
    with path.open("w") as file:
        while left:
            left -= file.write(BLOCK[:left])


def anonymous(process):
    """Return the bytes of memory, other than files', of a process and all it started."""
    total, waiting = 0, [process]
    while waiting:
        pid = waiting.pop()
        try:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += map(int, task.read_text().split())
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1]) * 1024
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return total


def peak(folder, megabytes, *words):
    """Return the peak of a whole run on a text, from its start: tokens, training, validation."""
    write(folder / "text.txt", megabytes)
    share = f"data.pretrain.val_fraction={VALIDATION / megabytes / 1e6}"
    command = [sys.executable, "-m", "llmlab", *RUN, share, *words]
    highest = 0
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            highest = max(highest, anonymous(process.pid))
            time.sleep(0.01)
        output.seek(0)
        assert process.returncode == 0, output.read()
    (folder / "text.txt").unlink()
    return highest


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux's /proc")
@pytest.mark.parametrize("windows", ["random", "shuffled"])
def test_memory_does_not_grow_with_the_text(tmp_path, windows):
    found = []
    for megabytes in (SMALL, LARGE):
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        found.append(peak(folder, megabytes, f"data.pretrain.windows={windows}"))
        tokens = sum(path.stat().st_size for path in folder.glob("tokens/*/[0-9]*.bin"))
        assert tokens == 2 * megabytes * 10**6
    small, large = found
    assert small > 20 * 10**6  # an interpreter with NumPy has more: the watching works
    # The promise is for a gigabyte, so a share of it for less.
    assert large - small < MORE * 10**6 * (LARGE - SMALL) / 1000


def test_the_watch_counts_children_and_not_files(tmp_path):
    program = (
        "import mmap, subprocess, sys; kept = bytearray(b'x') * {0}\n"
        "file = open({1!r}, 'rb'); data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "sum(data[::4096])\n"
        "{2}"
        "print('ready', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "file"
    path.write_bytes(b"x" * 40_000_000)
    inner = program.format(60_000_000, str(path), "")
    child = f"subprocess.Popen([sys.executable, '-c', {inner!r}])\n"
    words = [sys.executable, "-c", program.format(30_000_000, str(path), child)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for _ in range(2):
            assert process.stdout.readline() == b"ready\n"
        assert 90e6 < anonymous(process.pid) < 125e6
        process.stdin.close()


if __name__ == "__main__":
    for size in map(int, sys.argv[1:] or ("10", "1000")):
        with tempfile.TemporaryDirectory(dir=".") as scratch:
            began = time.perf_counter()
            most = peak(Path(scratch), size)
            took = time.perf_counter() - began
        print(f"{size:,} MB of text: {most / 1e6:.0f} MB of anonymous memory, {took:.0f} s")
