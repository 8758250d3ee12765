"""A crowd of clients at a server, for as long as one likes: nothing lost, nothing mixed up.

    python tests/support/crowd.py --checkpoint RUN [--clients 64] [--seconds 120]

Starts `phase=serve`, asks every question alone first, then by all clients at once, streaming or
not; some vanish in the middle. Prints how many answers were right, the time that they took and
the server's memory, and ends with 1 if one answer differs from that alone, or is missing.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT = 120


@dataclass
class Tally:
    """What became of the requests."""

    right: int = 0
    vanished: int = 0
    wrong: list = field(default_factory=list)
    seconds: list = field(default_factory=list)


def questions(prompts, count=60):
    """Return bodies of requests that differ in prompt, seed and length."""
    return [
        {
            "messages": [{"role": "user", "content": prompts[number % len(prompts)]}],
            "temperature": 1.5 if number % 3 else 0,
            "seed": number,
            "max_tokens": 4 + 7 * number % 60,
            "stream": number % 2 == 0,
        }
        for number in range(count)
    ]


async def ask(port, body, pieces=None):
    """Return the text of an answer; with `pieces`, go away after so many reads."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        content = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        if pieces is not None:
            for _ in range(pieces):
                await asyncio.wait_for(reader.read(256), TIMEOUT)
            return None
        data = await asyncio.wait_for(reader.read(), TIMEOUT)
        return text_of(data, body["stream"])
    finally:
        writer.close()


def text_of(data, streams):
    """Return the text of a whole response, which must be complete."""
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), data[:500]
    if not streams:
        return json.loads(body)["choices"][0]["message"]["content"]
    assert b"data: [DONE]" in body, data[-500:]
    found = re.findall(rb"^data: (\{.*\})\r?$", body, re.MULTILINE)
    deltas = [json.loads(part)["choices"][0]["delta"] for part in found]
    return "".join(delta.get("content", "") for delta in deltas)


async def crowd(port, bodies, clients, seconds=None, each=None, vanishing=0.1):
    """Let clients ask until the time is over, or `each` times, and return a `Tally`."""
    alone = [await ask(port, body) for body in bodies]
    tally, end = Tally(), time.monotonic() + (seconds or 1e9)

    async def client(number):
        rng = random.Random(number)
        count = 0
        while time.monotonic() < end and (each is None or count < each):
            count += 1
            which = rng.randrange(len(bodies))
            if rng.random() < vanishing:
                await ask(port, bodies[which], rng.randrange(4))
                tally.vanished += 1
                continue
            began = time.monotonic()
            try:
                found = await ask(port, bodies[which])
            except Exception as error:
                tally.wrong.append(f"{which}: {error!r}")
                continue
            tally.seconds.append(time.monotonic() - began)
            if found == alone[which]:
                tally.right += 1
            else:
                tally.wrong.append(f"{which}: {found!r}, alone {alone[which]!r}")

    await asyncio.gather(*(client(number) for number in range(clients)))
    return tally


def memory(pid):
    """Return a process's memory in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def main():
    """Run a crowd against a server of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    command = [sys.executable, "-u", "-m", "llmlab", "phase=serve", "serve.port=0"]
    command += [f"checkpoint={options.checkpoint}"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r"127\.0\.0\.1:(\d+)", server.stdout.readline())[1])
        bodies = questions(["What causes rain?", "How do mountains form?", "Why is the sky blue?"])
        asyncio.run(crowd(port, bodies, options.clients, seconds=5))
        before = memory(server.pid)
        tally = asyncio.run(crowd(port, bodies, options.clients, options.seconds))
        after = memory(server.pid)
    finally:
        server.send_signal(signal.SIGINT)
        code = server.wait(30)
    p95 = statistics.quantiles(tally.seconds, n=20)[18]
    print(f"{tally.right} right, {tally.vanished} vanished, {len(tally.wrong)} wrong or lost")
    print(f"median {statistics.median(tally.seconds):.3f} s, p95 {p95:.3f} s")
    print(f"memory {before:.0f} MB before, {after:.0f} MB after; exit code {code}")
    for line in tally.wrong[:5]:
        print(line)
    sys.exit(bool(tally.wrong) or code)


if __name__ == "__main__":
    main()
