"""A server in a thread of this process, and a client that sees every byte."""

import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass

from llmlab.serve.app import application
from llmlab.serve.models import Limits, Models, Served, scheduler_of
from llmlab.serve.server import listening, server_of


@dataclass
class Serving:
    """What runs.

    Attributes
    ----------
    texts
        Every text that was ever decoded, by its model's name.
    """

    port: int
    models: Models
    server: object
    texts: dict
    thread: threading.Thread

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path, body=None, **headers):
        """Return status, headers and JSON of an answer."""
        return ask(self.port, path, body, **headers)

    def chat(self, prompt, **fields):
        """Return the JSON of a chat's answer, which must be one."""
        messages = [{"role": "user", "content": prompt}]
        status, _, body = self.ask("/v1/chat/completions", {"messages": messages, **fields})
        assert status == 200, body
        return body


@contextmanager
def serving(models, limits=None, host="127.0.0.1", key=None, origins=(), sampler=None):
    """Serve models by name while the context is open."""
    limits, texts = limits or Limits(), {name: [] for name in models}
    served = []
    for name, model in models.items():
        scheduler = scheduler_of(model, "numpy", limits, None)
        _noting(scheduler, texts[name])
        spec = sampler or {"type": "greedy"}
        served.append(Served(name, model, model.template, 1, spec, None, scheduler))
    found = Models(served)
    app = application(found, limits, host, key, origins)
    with listening("127.0.0.1", 0) as sock:
        server = server_of(app, found.end_now)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        try:
            yield Serving(sock.getsockname()[1], found, server, texts, thread)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def _noting(scheduler, texts):
    add = scheduler.batch.add

    def adding(text):
        texts.append(text)
        add(text)

    scheduler.batch.add = adding


def request(path, body=None, method=None, **headers):
    """Return the bytes of a request."""
    method = method or ("GET" if body is None else "POST")
    content = (
        b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    )
    lines = {"Host": "localhost", "Connection": "close", "Content-Length": str(len(content))}
    if body is not None:
        lines["Content-Type"] = "application/json"
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{k}: {v}\r\n" for k, v in lines.items() if v is not None)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content


def send(port, data, timeout=30):
    """Return a socket that a request was sent to."""
    sock = socket.create_connection(("127.0.0.1", port), timeout)
    sock.sendall(data)
    return sock


def read_all(sock):
    """Return everything up to the end of the connection, as head and body, unchunked."""
    data = b""
    with sock:
        while part := sock.recv(65_536):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        rest, body = body, b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            count = int(size, 16)
            body, rest = body + rest[:count], rest[count + 2 :]
    return head.decode("latin-1"), body


def parsed(head):
    """Return status and headers of a head."""
    first, *rest = head.split("\r\n")
    return int(first.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in rest)}


def ask(port, path, body=None, **headers):
    """Return status, headers and JSON of an answer."""
    head, content = read_all(send(port, request(path, body, **headers)))
    status, found = parsed(head)
    return status, found, json.loads(content) if content else None
