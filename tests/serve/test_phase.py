"""Phase `serve` through the command line."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from chat_lab import CHATS, checkpoint, config, lab  # noqa: F401

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from serving import ask, read_all, request, send

from llmlab.cli import main
from llmlab.cli.resume import prepare
from llmlab.phases.serve import checkpoint_paths
from llmlab.serve.models import names_of

QUESTION, ANSWER = next(iter(CHATS.items()))
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
