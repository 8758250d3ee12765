"""Standard streams that are closed, full, without a reader, or of an encoding without letters."""

import io
import os
import shlex
import subprocess
import sys

import pytest
from small_run import KEYS, finished_run, small_lab  # noqa: F401

import llmlab
from llmlab.cli import main
from llmlab.cli.standard_streams import close_streams, forgiving, open_streams

pytestmark = pytest.mark.slow

LLMLAB = f"'{sys.executable}' -m llmlab"
TRAIN = " ".join([*KEYS, "steps=2"])


@pytest.fixture
def shell(lab):
    """Return a function that runs a line of bash in the lab's folder: (code, out, err)."""

    def run(line, **variables):
        source = os.path.dirname(os.path.dirname(llmlab.__file__))
        done = subprocess.run(
            ["bash", "-c", line.replace("llmlab ", f"{LLMLAB} ", 1)],
            cwd=lab.folder,
            env={**os.environ, "PYTHONPATH": source, **variables},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=100,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert "Logging error" not in done.stderr
        assert "Exception ignored" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("llmlab --help >&-", 0, ""),
        ("llmlab --help >/dev/full", 5, "error: standard output: No space left on device\n"),
        ("llmlab --version 2>/dev/full >/dev/full", 5, ""),
        ("llmlab phase=list >/dev/full", 5, "error: standard output: No space left on device\n"),
        ("llmlab lr=abc 2>/dev/full", 2, ""),
        ("llmlab lr=abc 2>&-", 2, ""),
        ("llmlab lr=abc >&- 2>&- <&-", 2, ""),
        ("llmlab --info config | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("llmlab --cfg job | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("llmlab phase=list | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("llmlab phase=chat checkpoint=run max_new_tokens=2 <&- 2>&1 >&-", 0, ""),
        ("yes | llmlab phase=chat checkpoint=run max_new_tokens=2 2>&1 >/dev/full", 5, ""),
    ],
)
def test_a_closed_or_full_stream(shell, line, code, said):
    found, _, err = shell(line)
    assert (found, err) == (code, said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("streams", "code"),
    [
        (">/dev/full", 5),
        ("2>/dev/full", 5),
        (">/dev/full 2>/dev/full", 5),
        (">&- 2>&- <&-", 0),
        ("2>&1 | true; exit ${PIPESTATUS[0]}", 141),
    ],
)
def test_a_training_never_ends_by_its_streams(shell, lab, streams, code):
    before = lab.tree()
    assert shell(f"llmlab {TRAIN} hydra.run.dir=other {streams}")[0] == code
    made = lab.tree()
    assert '"status": "finished"' in made["other/run.json"].decode()
    assert "other/checkpoints/step-000002.npz" in made
    for name, content in before.items():  # no file got the number of a closed stream
        assert made[name] == content
    assert b"run: " not in b"".join(c for n, c in made.items() if n.startswith("other/"))


def test_a_sweep_does_not_count_a_full_stream_as_a_job_that_failed(shell, lab):
    code, _, _ = shell(f"llmlab -m {TRAIN} lr=1e-3,1e-4 hydra.sweep.dir=two >/dev/full")
    assert code == 5
    results = list(lab.folder.glob("two/*/result.json"))
    assert len(results) == 2
    assert all('"status": "finished"' in path.read_text() for path in results)


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "phase=list",
        "phase=summary",
        "phase=evaluate checkpoint=run on=good.txt",
        "phase=score checkpoint=run prompt='the ☆ sun'",
        "phase=generate checkpoint=run prompt='☆ é' max_new_tokens=2",
        "phase=verify checkpoint=run",
        f"{TRAIN} hydra.run.dir=ö",
    ],
)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict"])
def test_letters_that_an_encoding_lacks_are_replaced(lab, monkeypatch, command, encoding):
    encoding, _, errors = encoding.partition(":")
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding, errors=errors or "strict") for _ in range(2)
    )
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    code = main(shlex.split(command))
    err.flush()
    assert code == 0, err.buffer.getvalue()


@pytest.mark.slow
def test_a_line_without_an_end_is_refused(shell):
    code, _, err = shell("llmlab phase=chat checkpoint=run < /dev/zero")
    assert code == 3
    assert err.endswith(
        "error: standard input: a line longer than 1,000,000 characters; break it up\n"
    )


@pytest.mark.slow
def test_a_line_of_the_most_that_is_taken_is_answered(shell):
    line = "head -c 999999 /dev/zero | tr '\\0' 'a'; echo"
    code, _, err = shell(f"({line}) | llmlab phase=chat checkpoint=run max_new_tokens=1")
    assert code == 0
    assert "longer than" not in err


def test_streams_of_others_are_left_alone(monkeypatch):
    other = io.StringIO()
    monkeypatch.setattr(sys, "stdout", other)
    open_streams()
    assert sys.stdout is other
    with forgiving():
        print("x")
    assert close_streams() is None
    assert other.getvalue() == "x\n"
