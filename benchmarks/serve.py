"""The server's speed: tokens per second of 1, 4 and 16 clients, and how long they wait.

    python benchmarks/serve.py [--checkpoint RUN] [--clients 1 4 16] [--tokens 48] [--rounds 9]

Without a checkpoint it is the default network after two steps of training, which is as fast as a
trained one. The server is a process of its own; all requests ask for the same number of tokens, and
no text ends before. `engine` is the same work without a server, one text after the other. The
contestants take turns; a ratio is a median over the rounds, with quartiles.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from timing import ratios, spread, table

from llmlab.build import load_model
from llmlab.checkpoints import load
from llmlab.cli.start import compose
from llmlab.generate import Engine
from llmlab.runs import resolve_checkpoint

PROMPTS = ("What causes rain?", "How do mountains form?", "Why is the sky blue?")
EACH = 4  # requests of each client in a turn


def main() -> None:
    """Measure what the command line asks for."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = resolve_checkpoint(options.checkpoint) if options.checkpoint else train(folder)
        model = load_model(compose("phase=chat", f"checkpoint={path}"), load(path))
        engine, end = Engine(model.network("numpy")), model.tokenizer.end_id
        prompts = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
        seconds: dict[str, list[float]] = {}
        waits: dict[str, list[float]] = {}
        with server(path) as port:
            for number in range(options.rounds + 1):  # the first round is a warm-up
                began = time.perf_counter()
                for n in range(EACH):
                    engine.generate([prompts[n % 3]], max_new_tokens=options.tokens)
                turns = {"engine": (time.perf_counter() - began, [])}
                for clients in options.clients:
                    work = crowd(port, clients, prompts, options.tokens, end)
                    turns[f"{clients} clients"] = asyncio.run(work)
                for name, (took, waited) in turns.items() if number else ():
                    texts = EACH * (1 if name == "engine" else int(name.split()[0]))
                    seconds.setdefault(name, []).append(took / texts)
                    waits.setdefault(name, []).extend(waited)
        show(seconds, waits, options.tokens)


def show(seconds: dict[str, list[float]], waits: dict[str, list[float]], tokens: int) -> None:
    """Print the table."""
    base = next(name for name in seconds if name != "engine")
    rows = []
    for name, each in seconds.items():
        speed = f"{tokens / statistics.median(each):,.0f}"
        faster = spread(ratios(seconds[base], each))
        known = sorted(waits[name])
        late = f"{1e3 * known[int(0.95 * len(known))]:.0f}" if known else ""
        middle = f"{1e3 * statistics.median(known):.0f}" if known else ""
        rows.append((name, speed, faster, middle, late))
    heads = ("contestant", "tokens/s", f"times {base}", "median ms", "p95 ms")
    print(table(heads, rows))


def train(folder: str) -> Path:
    """Return a checkpoint of the default network after two steps."""
    command = [sys.executable, "-m", "llmlab", "phase=tune", "steps=2", "threads=1"]
    subprocess.run([*command, f"hydra.run.dir={folder}/run"], check=True, capture_output=True)
    return resolve_checkpoint(f"{folder}/run")


@contextmanager
def server(path: Path) -> Iterator[int]:
    """Serve a checkpoint in a process of its own, and yield its port."""
    command = [sys.executable, "-u", "-m", "llmlab", "phase=serve", "serve.port=0"]
    process = subprocess.Popen(
        [*command, f"checkpoint={path}"], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    try:
        found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert found, "the server didn't start"
        yield int(found[1])
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


async def crowd(
    port: int, clients: int, prompts: list[list[int]], tokens: int, end: int
) -> tuple[float, list[float]]:
    """Let clients ask `EACH` times, and return the seconds of all and of each request."""
    waited: list[float] = []

    async def client(number: int) -> None:
        for n in range(EACH):
            body = {"prompt": prompts[(number + n) % 3], "max_tokens": tokens, "temperature": 0}
            began = time.perf_counter()
            answer = await ask(port, {**body, "logit_bias": {str(end): -100}})
            waited.append(time.perf_counter() - began)
            assert answer["usage"]["completion_tokens"] == tokens

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in np.arange(clients).tolist()))
    return time.perf_counter() - began, waited


async def ask(port: int, body: dict) -> dict:
    """Return the JSON of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    data = await reader.read()
    writer.close()
    return json.loads(data.partition(b"\r\n\r\n")[2])


if __name__ == "__main__":
    main()
