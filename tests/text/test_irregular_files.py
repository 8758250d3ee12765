"""FIFOs, devices and folders where a file is expected: refused at once, whoever reads."""

import os
import resource
import subprocess
import sys

import pytest
from small_run import KEYS, finished_run, small_lab  # noqa: F401

from llmlab.errors import ResourceError
from llmlab.regular_file import open_regular, read_regular

pytestmark = pytest.mark.slow

DATA, CHECKPOINT, CONFIG = 3, 4, 2
PLACES = {
    "data": (["data.pretrain.path=X", "steps=1"], DATA),
    "tokens": (["data=tokens", "data.pretrain.path=X", "tokenizer=byte", "steps=1"], DATA),
    "running text": (["data=text", "data.pretrain.path=X", "tokenizer=byte", "steps=1"], DATA),
    "corpus": (["tokenizer.corpus=[X]", "steps=1"], DATA),
    "tokenizer": (["tokenizer=pretrained", "tokenizer.path=X", "steps=1"], DATA),
    "weights": (["phase=generate", "prompt=sun", "checkpoint=X"], CHECKPOINT),
    "verified": (["phase=verify", "checkpoint=X"], CHECKPOINT),
    "measured": (["phase=evaluate", "checkpoint=run", "on=X"], DATA),
    "resumed": (["resume=X"], CHECKPOINT),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["fifo", "zero", "link"])
def test_what_is_no_file_is_not_waited_for(lab, place, kind):
    path = lab.folder / "it.npz"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        path = "/dev/zero"
    argv, code = PLACES[place]
    own = [] if argv[0].startswith(("phase", "resume")) else [KEYS[0], *KEYS[2:]]
    argv = [word.replace("X", str(path)) for word in argv]
    argv = [
        word for word in own if word.split("=")[0] not in {a.split("=")[0] for a in argv}
    ] + argv
    if place == "tokenizer":
        pytest.importorskip("tokenizers")
    answer = lab(*argv)
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err and "regular file" in answer.err


def test_a_limit_is_kept(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert read_regular(path, 3) == b"abc"
    with pytest.raises(OSError, match="larger than"):
        read_regular(path, 2)
    for wrong in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(OSError):
            open_regular(wrong)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts differently")
def test_no_open_files_are_left(tmp_path):
    (tmp_path / "a").write_text("a")
    code = (
        "import os, resource, sys\n"
        "from llmlab.errors import ResourceError\n"
        "from llmlab.text import read_texts\n"
        "files = []\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\n"
        "try:\n"
        "    while True: files.append(os.open('a', os.O_RDONLY))\n"
        "except OSError: pass\n"
        "try: list(read_texts('a'))\n"
        "except ResourceError as error: sys.exit(str(error).count('ulimit -n'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and not done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("limit", [5, 6, 7, 8])
def test_a_run_without_open_files_is_refused_as_the_machines_fault(tmp_path, limit):
    done = subprocess.run(
        [sys.executable, "-m", "llmlab", "phase=pretrain", "experiment=tiny", "steps=2"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == ResourceError.exit_code, done.stderr
    assert "Too many open files" in done.stderr and "Traceback" not in done.stderr
