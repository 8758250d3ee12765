"""Phase `serve` through the command line."""

import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from chat_lab import CHATS, checkpoint, config, lab  # noqa: F401

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from serving import ask, read_all, request, send

from llmlab.cli import main
from llmlab.cli.resume import prepare
from llmlab.phases.serve import _served, _written, checkpoint_paths
from llmlab.serve.models import Limits, names_of
from llmlab.serve.server import Stopping
from llmlab.signals import Interrupted

QUESTION, ANSWER = next(iter(CHATS.items()))
DEAF = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
CHAT = {"messages": [{"role": "user", "content": QUESTION}]}


@pytest.fixture
def serve(checkpoint, monkeypatch, capsys):  # noqa: F811
    """Return the exit code and the errors of a server that can't start."""
    monkeypatch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda self, **given: None)

    def run(*keys):
        capsys.readouterr()
        code = main(["phase=serve", f"checkpoint={checkpoint}", *keys])
        return code, capsys.readouterr().err

    return run


@pytest.mark.slow
def test_what_is_refused(serve):
    code, said = serve("serve.host=0.0.0.0")
    assert (
        code == 2 and "serve.host=0.0.0.0: other machines can reach it, so it needs a key" in said
    )
    code, said = serve("serve.rows=0", "serve.cors=example.org", "serve.port=70000")
    assert code == 2
    assert "serve.rows=0: must be at least 1" in said
    assert "serve.cors=example.org: must be an origin, as https://example.org" in said
    assert "serve.port=70000: must be 0 to 65535" in said
    code, said = serve("serve.names=[a,b]")
    assert code == 2 and "expected 1 different names" in said
    code, said = serve("serve.prot=1")
    assert code == 2 and "did you mean 'port'" in said
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = serve(f"serve.port={port}")
    assert code == 5 and f"serve.port={port}: address already in use" in said


def test_without_the_extra_it_says_what_to_install(serve, monkeypatch):
    monkeypatch.setattr("llmlab.phases.serve.find_spec", lambda name: None)
    code, said = serve()
    assert code == 5 and "pip install 'llmlab[serve]'" in said


def test_several_checkpoints_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = []
    for run, step in (("one", 1), ("two,b", 2), ("one", 3)):
        folder = tmp_path / "runs" / run / "tune" / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"step-{step:06}.npz")
        paths[-1].touch()
    given = ",".join(f"'{path.relative_to(tmp_path)}'" for path in paths)
    line = prepare(["phase=serve", f"checkpoint=[{given}]"])
    value = next(t for t in line.tokens if t.startswith("checkpoint="))
    value = value.removeprefix("checkpoint='").removesuffix("'").replace("\\'", "'")
    assert checkpoint_paths(value) == paths
    assert checkpoint_paths(str(paths[0])) == paths[:1]
    assert names_of(paths) == ["one", "two,b", "one-step-000003"]


def test_a_signal_before_there_is_a_server_stops_the_loading_and_a_second_one_is_ignored():
    before = signal.getsignal(signal.SIGTERM)
    with Stopping():
        with pytest.raises(Interrupted, match="stopped by SIGTERM") as stopped:
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_state_that_its_run_has_pruned_meanwhile_is_served_as_that_after_it(config, checkpoint):  # noqa: F811
    gone = Path(checkpoint).with_name("step-000000.npz")
    (served,) = _served(replace(config, checkpoint=str(gone)), None, Limits(), None)
    assert served.created == int(Path(checkpoint).stat().st_mtime)
    assert _written(gone) >= served.created


@pytest.mark.slow
def test_what_is_trained_while_it_is_served_stays_what_was_loaded(tmp_path):
    """Its file is pruned, the run is stopped, and the answers are those of the state loaded."""
    word = [sys.executable, "-u", "-m", "llmlab"]
    keys = ["experiment=tiny", "phase=pretrain", "threads=1", "steps=100000", "save_every=1"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    saved = tmp_path / "run" / "checkpoints"
    with ended(subprocess.Popen([*word, *keys, "hydra.run.dir=run"], **piped | DEAF)) as training:
        wait_until(lambda: len([*saved.glob("step-*.npz")]) > 1)
        serving = [*word, "phase=serve", "checkpoint=run", "serve.port=0"]
        with ended(subprocess.Popen(serving, **piped)) as server:
            port = int(re.search(r":(\d+)", server.stdout.readline())[1])
            told = iter(server.stderr.readline, "")  # perhaps that another one was pruned already
            line = next(line for line in told if line.startswith("checkpoint: "))
            loaded = Path(line.removeprefix("checkpoint: ").strip())
            body = {"prompt": "the sun", "max_tokens": 12, "temperature": 0}
            first = ask(port, "/v1/completions", body)[2]["choices"]
            wait_until(lambda: not loaded.exists())
            assert ask(port, "/v1/completions", body)[2]["choices"] == first
            training.send_signal(signal.SIGTERM)
            assert training.wait(60) == 143
            assert ask(port, "/v1/completions", body)[2]["choices"] == first
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0 and not server.stderr.read()


@contextmanager
def ended(process):
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_a_server_from_start_to_end(checkpoint, tmp_path):  # noqa: F811
    command = [sys.executable, "-u", "-m", "llmlab", "phase=serve", "serve.port=0"]
    command += [f"checkpoint=[{checkpoint},{checkpoint}]", "serve.names=[a,b]"]
    command += ["serve.host=0.0.0.0", "serve.api_key=secret", "serve.max_tokens=1000000"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        told = process.stdout.readline()
        assert told.startswith("serving a, b at http://0.0.0.0:")
        port, key = int(re.search(r":(\d+)", told)[1]), {"Authorization": "Bearer secret"}
        assert ask(port, "/v1/models")[0] == 401
        assert [m["id"] for m in ask(port, "/v1/models", **key)[2]["data"]] == ["a", "b"]
        for host in ("192.168.1.2:8000", socket.gethostname()):
            assert ask(port, "/health", Host=host)[0] == 200
        body = ask(port, "/v1/chat/completions", {**CHAT, "model": "b"}, **key)[2]
        assert body["choices"][0]["message"]["content"] == ANSWER
        biases = {str(n): -100 for n in range(4)}
        endless = {**CHAT, "stream": True, "max_tokens": 10**6, "logit_bias": biases}
        sock = send(port, request("/v1/chat/completions", endless, **key))
        assert sock.recv(100)
        process.send_signal(signal.SIGINT)
        assert read_all(sock)[1].endswith(b'"finish_reason":"length"}]}\n\ndata: [DONE]\n\n')
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0 and "Traceback" not in errors
    finally:
        process.kill()
        process.communicate()
    assert not Path(tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0, 0.005, 0.05])
@pytest.mark.parametrize("pair", [("SIGINT", "SIGTERM"), ("SIGTERM", "SIGTERM")])
def test_two_signals_at_once_end_a_server_quietly(checkpoint, tmp_path, pair, pause):  # noqa: F811
    command = [sys.executable, "-u", "-m", "llmlab", "phase=serve", "serve.port=0"]
    process = subprocess.Popen(
        [*command, f"checkpoint={checkpoint}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        assert process.stdout.readline().startswith("serving")
        for name in pair:
            process.send_signal(getattr(signal, name))
            time.sleep(pause)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert [line.split()[0] for line in errors.splitlines()] == ["checkpoint:"]
