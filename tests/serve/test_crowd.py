"""Many clients, and those who mean no good: the right status, and a server that lives on."""

import asyncio
import gc
import json
import time
from pathlib import Path

import pytest
from chat_lab import CHATS, checkpoint, config, lab, model  # noqa: F401

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from crowd import crowd, memory, questions
from serving import parsed, read_all, request, send, serving

from llmlab.serve import server as server_module
from llmlab.serve.models import Limits

pytestmark = pytest.mark.slow

QUESTION, ANSWER = next(iter(CHATS.items()))
PATH = "/v1/chat/completions"
CHAT = {"messages": [{"role": "user", "content": QUESTION}]}


def alive(found):
    return found.chat(QUESTION)["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.slow
def test_sixty_four_clients_at_once(model):  # noqa: F811
    with serving({"small": model}) as found:
        bodies = questions(list(CHATS))
        tally = asyncio.run(crowd(found.port, bodies, 64, each=4))
        assert tally.wrong == []
        assert tally.right + tally.vanished == 4 * 64 and tally.vanished > 5
        assert found.ask("/health")[2] == {"status": "ok", "running": 0, "waiting": 0}


def test_a_few_clients_at_once(model):  # noqa: F811
    with serving({"small": model}, Limits(rows=3, queue=9)) as found:
        bodies = questions(list(CHATS), 8)
        tally = asyncio.run(crowd(found.port, bodies, 8, each=2))
        assert tally.wrong == [] and tally.right + tally.vanished == 16


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_100_mb(model, chunked):  # noqa: F811
    with serving({"small": model}) as found:
        assert alive(found)
        gc.collect()
        before = memory("self")
        part, count = b" " * 1_000_000, 100
        head = request(PATH, b"", Content_Length=None if chunked else str(count * len(part)))
        if chunked:
            head = head.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock = send(found.port, head)
        for _ in range(count):
            sock.sendall(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        if chunked:
            sock.sendall(b"0\r\n\r\n")
        head, body = read_all(sock)
        assert parsed(head)[0] == 413 and json.loads(body)["error"]["code"] == "body_too_long"
        assert memory("self") - before < 30
        assert alive(found)


def test_who_asks_before_sending_too_much_is_told_at_once(model):  # noqa: F811
    with serving({"small": model}) as found:
        data = request(PATH, b"", Content_Length="100000000", Expect="100-continue")
        assert parsed(read_all(send(found.port, data))[0])[0] == 413


def test_slow_senders(model, monkeypatch):  # noqa: F811
    monkeypatch.setattr(server_module, "HEADER_SECONDS", 0.1)
    with serving({"small": model}, Limits(upload=0.1)) as found:
        whole = request(PATH, CHAT)
        at = whole.index(b"\r\n\r\n") + 4
        for part, status in ((whole[: at + 9], 408), (whole[:40], 408), (b"", 408)):
            sock = send(found.port, part)
            time.sleep(0.02)
            assert parsed(read_all(sock)[0])[0] == status
        assert alive(found)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * 200_000,
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    ],
)
def test_what_is_no_http(model, data):  # noqa: F811
    with serving({"small": model}) as found:
        try:
            head, _ = read_all(send(found.port, data))
            assert parsed(head)[0] in (400, 403)
        except ConnectionError:
            pass
        assert alive(found)


def test_who_doesnt_read_holds_up_nobody(model):  # noqa: F811
    with serving({"small": model}, Limits(tokens=1_000_000)) as found:
        ids = next(iter(found.models)).model.tokenizer.encode("Rain")
        endless = {**CHAT, "stream": True, "max_tokens": 1_000_000, "logit_bias": {ids[0]: 100}}
        sock = send(found.port, request(PATH, {**endless, "logprobs": True, "top_logprobs": 20}))
        assert alive(found) and alive(found)
        sock.close()
        assert Path("/proc").exists() and alive(found)
