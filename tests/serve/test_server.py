"""The server: OpenAI's interface over real sockets."""

import json
import signal
import time

import pytest
from chat_lab import CHATS, checkpoint, config, lab, model  # noqa: F401

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from serving import ask, parsed, read_all, request, send, serving

from llmlab.serve.models import Limits
from llmlab.serve.server import Stopping

QUESTION, ANSWER = next(iter(CHATS.items()))
CHAT = {"messages": [{"role": "user", "content": QUESTION}]}
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(model):  # noqa: F811
    with serving({"small": model, "other": model}) as found:
        yield found


def events(body):
    """Return the JSON of server-sent events that end as they must, every byte accounted for."""
    parts = body.split(b"\n\n")
    assert parts.pop() == b"" and parts.pop() == b"data: [DONE]"
    assert all(part.startswith(b"data: {") and b"\n" not in part for part in parts)
    return [json.loads(part[6:]) for part in parts]


def stream(server, path=PATH, **fields):
    head, body = read_all(send(server.port, request(path, {**CHAT, **fields, "stream": True})))
    status, headers = parsed(head)
    assert status == 200 and headers["content-type"] == "text/event-stream; charset=utf-8"
    return events(body)


def test_models_and_health(server):
    _, _, found = server.ask("/v1/models")
    assert [each["id"] for each in found["data"]] == ["small", "other"]
    assert server.ask("/v1/models/other")[2]["id"] == "other"
    status, _, body = server.ask("/v1/models/smal")
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert "did you mean 'small'" in body["error"]["message"]
    assert server.ask("/health")[2] == {"status": "ok", "running": 0, "waiting": 0}
    assert server.ask("/nothing")[0] == 404 and server.ask(PATH)[0] == 405


def test_a_chat_is_answered(server):
    body = server.chat(QUESTION, model="other")
    assert body["choices"][0]["message"] == {
        "role": "assistant", "content": ANSWER, "refusal": None,
    }  # fmt: skip
    assert body["choices"][0]["finish_reason"] == "stop"
    assert (body["object"], body["model"]) == ("chat.completion", "other")
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert server.chat(QUESTION, max_tokens=2)["choices"][0]["finish_reason"] == "length"
    cut = server.chat(QUESTION, stop=["from", "clouds"])["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == ("Rain falls", "stop")


def test_a_stream_byte_by_byte(server):
    found = stream(server, stream_options={"include_usage": True})
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [chunk["choices"][0] for chunk in found[1:-1]]
    assert "".join(piece["delta"].get("content", "") for piece in pieces) == ANSWER
    assert len(pieces) > 4
    assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert found[-1]["choices"] == [] and found[-1]["usage"]["completion_tokens"] == 5
    assert all(chunk["usage"] is None for chunk in found[:-1])
    assert len({(chunk["id"], chunk["created"]) for chunk in found}) == 1


def test_streams_say_what_whole_answers_do(server):
    fields = {"temperature": 2.0, "seed": 5, "n": 3, "max_tokens": 12, "stop": "."}
    whole = server.chat(QUESTION, **fields)["choices"]
    assert len({each["message"]["content"] for each in whole}) > 1
    said = ["", "", ""]
    for chunk in stream(server, **fields):
        choice = chunk["choices"][0]
        said[choice["index"]] += choice["delta"].get("content", "")
    assert said == [each["message"]["content"] for each in whole]
    assert server.chat(QUESTION, **fields)["choices"] == whole


def test_log_probabilities(server):
    body = server.chat(QUESTION, logprobs=True, top_logprobs=3)
    logs = body["choices"][0]["logprobs"]["content"]
    assert [each["token"] for each in logs] == ["Rain", "falls", "from", "clouds", "."]
    for each in logs:
        tops = [top["logprob"] for top in each["top_logprobs"]]
        assert tops[0] == each["logprob"] <= 0 and tops == sorted(tops, reverse=True)
        assert bytes(each["bytes"]).decode() == each["token"]


def test_a_text_is_continued_and_echoed(server):
    fields = {"prompt": "Rain falls", "max_tokens": 3, "logprobs": 2, "echo": True}
    _, _, body = server.ask("/v1/completions", fields)
    choice = body["choices"][0]
    assert choice["text"] == "Rain falls from clouds."
    logs = choice["logprobs"]
    assert logs["tokens"] == ["Rain", "falls", "from", "clouds", "."]
    assert logs["token_logprobs"][0] is None and logs["text_offset"] == [0, 4, 10, 15, 22]
    assert len(logs["top_logprobs"][1]) == 2
    _, _, scored = server.ask("/v1/completions", {**fields, "max_tokens": 0})
    assert scored["choices"][0]["text"] == "Rain falls"
    assert scored["choices"][0]["logprobs"]["token_logprobs"] == logs["token_logprobs"][:2]
    several = {"prompt": ["Rain falls", "Who are"], "n": 2, "max_tokens": 1}
    _, _, body = server.ask("/v1/completions", several)
    assert [each["index"] for each in body["choices"]] == [0, 1, 2, 3]
    found = stream(server, "/v1/completions", **{**fields, "messages": None})
    assert "".join(chunk["choices"][0]["text"] for chunk in found) == choice["text"]


def test_samplers_of_llmlab_are_fields(server):
    assert (
        server.chat(QUESTION, temperature=5, top_k=1)["choices"][0]["message"]["content"] == ANSWER
    )
    own = {"sampler": {"type": "sample", "min_p": 1.0, "temperature": 3}}
    assert server.chat(QUESTION, **own)["choices"][0]["message"]["content"] == ANSWER
    ids = model_ids(server, "Rain")
    biased = server.chat(QUESTION, logit_bias={str(ids[0]): -100})
    assert not biased["choices"][0]["message"]["content"].startswith("Rain")
    long = server.chat(QUESTION, logit_bias={str(ids[0]): 100}, max_tokens=100)
    assert long["usage"]["completion_tokens"] == 100  # twice as long as the context


def model_ids(server, text):
    return next(iter(server.models)).model.tokenizer.encode(text)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"messages": []}, "messages", "is empty"),
        ({"messages": None}, "messages", "expected a list, found null"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "x", "content": ""}]}, "messages[0].role", "expected one of"),
        ({"temperature": "hot"}, "temperature", "expected a number, found text"),
        ({"temperature": -1}, "temperature", "must be 0 to 100"),
        ({"top_p": 0}, "top_p", "must be more than 0"),
        ({"max_tokens": 1.5}, "max_tokens", "expected a whole number"),
        ({"n": True}, "n", "expected a whole number, found true or false"),
        ({"stop": [""]}, "stop[0]", "is empty"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "expected the id of a token"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "for a token id below"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs=true"),
        ({"sampler": "beam"}, "sampler", "isn't served"),
        ({"sampler": {"type": "sampel"}}, "sampler", "did you mean 'sample'"),
        ({"sampler": {"type": "sample", "top_k": -1}}, "top_k", "at least 0"),
        ({"sampler": {"type": "sample", "heat": 1}}, "heat", "unknown argument"),
    ],
)
def test_what_is_wrong_is_named(server, fields, param, said):
    status, _, body = server.ask(PATH, {**CHAT, **fields})
    assert (status, body["error"]["param"]) == (400, param), body
    assert said in body["error"]["message"]
    assert body["error"]["type"] == "invalid_request_error"


def test_what_is_unknown_is_told(server):
    _, headers, _ = server.ask(PATH, {**CHAT, "tools": [], "user": "me"})
    assert headers["x-llmlab-warning"] == "ignored, since unknown: 'tools'"
    for name in ("", " ", "a\r\nSet-Cookie: b", "\x7f\x00", "\u2028", "x" * 99_999):
        status, headers, _ = server.ask(PATH, {**CHAT, name: 1})
        assert status == 200 and "set-cookie" not in headers
        assert headers["x-llmlab-warning"].startswith("ignored, since unknown: '")
    odd = {"messages": [{"role": "user", "content": "What quïrks?"}]}
    _, headers, _ = server.ask(PATH, odd)
    assert "not in the model's vocabulary: qu" in headers["x-llmlab-warning"]


def test_the_oldest_turns_make_room(server):
    turns = [{"role": r, "content": "rain " * 6} for r in ("user", "assistant") * 5]
    status, headers, _ = server.ask(PATH, {"messages": [*turns, *CHAT["messages"]]})
    assert status == 200 and "messages: the oldest" in headers["x-llmlab-warning"]
    long = {"messages": [{"role": "user", "content": "rain " * 90}]}
    status, _, body = server.ask(PATH, long)
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"messages": NaN}', 400),
        (b"\xff\xfe\x00", 400),
        (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"messages": ' + b"9" * 5_000 + b"}", 400),
        (b'{"messages": "' + b"a" * 1_000_000 + b'"}', 413),
    ],
)
def test_bad_bodies(server, body, status):
    found, _, answer = server.ask(PATH, body)
    assert found == status and answer["error"]["message"]
    assert server.ask("/health")[0] == 200


def test_other_media_are_refused(server):
    assert server.ask(PATH, CHAT, Content_Type="text/plain")[0] == 415


def test_foreign_hosts_and_origins_are_refused(model):  # noqa: F811
    with serving({"small": model}, origins=["https://ok.example"]) as found:
        port = found.port
        for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::1", ""):
            assert ask(port, "/health", Host=host)[0] in (400, 403)
        for host in ("localhost", f"127.0.0.1:{port}", "[::1]:99"):
            assert ask(port, "/health", Host=host)[0] == 200
        for origin in ("https://evil.example", "null", "http://localhost:1"):
            assert ask(port, "/health", Origin=origin)[0] == 403
        status, headers, _ = ask(port, "/health", Origin="http://localhost")
        assert status == 200 and "access-control-allow-origin" not in headers
        status, headers, _ = ask(port, "/health", Origin="https://ok.example")
        assert headers["access-control-allow-origin"] == "https://ok.example"
        status, headers, _ = read_preflight(port)
        assert status == 200 and "POST" in headers["access-control-allow-methods"]


def read_preflight(port):
    data = request(PATH, method="OPTIONS", Origin="https://ok.example")
    head, body = read_all(send(port, data))
    return *parsed(head), body


def test_a_key_is_asked_for(model):  # noqa: F811
    with serving({"small": model}, key="secret") as found:
        for given in (None, "Bearer wrong", "secret", "Basic secret"):
            status, _, body = found.ask("/v1/models", Authorization=given)
            assert (status, body["error"]["type"]) == (401, "authentication_error")
        assert found.ask("/v1/models", Authorization="Bearer secret")[0] == 200
        assert parsed(read_all(send(found.port, request("/")))[0])[0] == 200  # the page asks for it


def test_a_full_queue_says_when_to_come_again(model):  # noqa: F811
    limits = Limits(rows=1, queue=1, tokens=1_000_000)
    with serving({"small": model}, limits) as found:
        ids = model_ids(found, "Rain")
        endless = {**CHAT, "stream": True, "max_tokens": 1_000_000, "logit_bias": {ids[0]: 100}}
        first, second = (send(found.port, request(PATH, endless)) for _ in range(2))
        wait_for(lambda: len(found.texts["small"]) == 2)
        status, headers, body = found.ask(PATH, CHAT)
        assert (status, body["error"]["code"]) == (429, "queue_full")
        assert int(headers["retry-after"]) >= 1
        assert found.ask(PATH, {**CHAT, "n": 3})[0] == 429
        first.close()
        second.close()
        wait_for(lambda: found.ask("/health")[2]["running"] == 0)
        assert found.chat(QUESTION)["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize("streams", [True, False])
def test_decoding_stops_when_the_client_goes_away(model, streams):  # noqa: F811
    with serving({"small": model}, Limits(tokens=1_000_000)) as found:
        ids = model_ids(found, "Rain")
        fields = {"max_tokens": 1_000_000, "logit_bias": {ids[0]: 100}, "stream": streams}
        sock = send(found.port, request(PATH, {**CHAT, **fields}))
        wait_for(lambda: found.texts["small"] and len(found.texts["small"][0].reply) > 5)
        text = found.texts["small"][0]
        noticed = []
        scheduler = next(iter(found.models)).scheduler
        answer = scheduler._answers[text]
        cancel = answer.cancel
        answer.cancel = lambda: (noticed.append(len(text.reply)), cancel())
        sock.close()
        wait_for(lambda: text.reason is not None)
        assert text.reason == "cancelled"
        assert len(text.reply) - noticed[0] <= 2
        assert found.ask("/health")[2]["running"] == 0


def wait_for(what, seconds=20):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


def test_the_server_ends_streams_cleanly(model):  # noqa: F811
    with serving({"small": model}, Limits(tokens=1_000_000)) as found:
        ids = model_ids(found, "Rain")
        fields = {"max_tokens": 1_000_000, "logit_bias": {ids[0]: 100}, "stream": True}
        sock = send(found.port, request(PATH, {**CHAT, **fields}))
        wait_for(lambda: found.texts["small"] and len(found.texts["small"][0].reply) > 5)
        found.server.should_exit = True
        found.server._end_now()
        chunks = events(read_all(sock)[1])
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_an_answer_ends_when_its_time_is_over(model):  # noqa: F811
    with serving({"small": model}, Limits(tokens=1_000_000, seconds=0.05)) as found:
        ids = model_ids(found, "Rain")
        fields = {"max_tokens": 1_000_000, "logit_bias": {ids[0]: 100}}
        choice = found.chat(QUESTION, **fields)["choices"][0]
        assert choice["finish_reason"] == "length" and "Rain Rain" in choice["message"]["content"]


def test_a_broken_step_is_an_error_and_not_the_end(model, monkeypatch):  # noqa: F811
    with serving({"small": model}) as found:
        batch = next(iter(found.models)).scheduler.batch
        with monkeypatch.context() as patch:
            patch.setattr(batch, "step", lambda: 1 / 0)
            assert found.ask(PATH, CHAT)[0] == 500
        assert found.chat(QUESTION)["choices"][0]["message"]["content"] == ANSWER


def test_the_second_signal_leaves_clients_that_do_not_listen(model, caplog):  # noqa: F811
    limits = Limits(tokens=10**6)
    with serving({"chat": model}, limits) as place:
        biases = {str(n): -100 for n in range(4)}
        endless = {**CHAT, "stream": True, "max_tokens": 10**6, "logit_bias": biases}
        client = send(place.port, request("/v1/chat/completions", endless))
        assert client.recv(100)
        with Stopping() as stopping:
            stopping.server = place.server
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
                signal.raise_signal(number)
        place.thread.join(20)
        client.close()
        assert not place.thread.is_alive()
    assert not caplog.records  # uvicorn tells of what it had to cancel, with a traceback
