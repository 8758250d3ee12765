"""Clients that other people wrote: openai, llm, schemathesis, compatcanary."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chat_lab import CHATS, checkpoint, config, lab, model  # noqa: F401

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from serving import serving

pytestmark = pytest.mark.slow
QUESTION, ANSWER = next(iter(CHATS.items()))
MESSAGES = [{"role": "user", "content": QUESTION}]
CANARY = shutil.which("compatcanary") or os.environ.get("COMPATCANARY")


@pytest.fixture(scope="module")
def server(model):  # noqa: F811
    with serving({"small": model}) as found:
        yield found


def own_environment(**more):
    """Return an environment in which no proxy and no key of this machine are."""
    kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and "KEY" not in k}
    return {**kept, **more}


@pytest.fixture
def openai(monkeypatch):
    module = pytest.importorskip("openai")
    for name in [name for name in os.environ if "proxy" in name.lower()]:
        monkeypatch.delenv(name)
    return module


def test_openai(server, openai):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        assert [each.id for each in client.models.list()] == ["small"]
        chat = client.chat.completions
        done = chat.create(model="small", messages=MESSAGES, logprobs=True, top_logprobs=2)
        assert done.choices[0].message.content == ANSWER
        assert done.choices[0].logprobs.content[0].token == "Rain"
        assert done.usage.completion_tokens == 5
        usage = {"include_usage": True}
        chunks = list(
            chat.create(model="small", messages=MESSAGES, stream=True, stream_options=usage)
        )
        said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(said) == ANSWER and chunks[-1].usage.completion_tokens == 5
        drawn = [
            chat.create(model="small", messages=MESSAGES, seed=1, temperature=2, n=2, max_tokens=9)
            for _ in range(2)
        ]
        assert drawn[0].choices == drawn[1].choices and len(drawn[0].choices) == 2
        own = {"top_k": 1, "temperature": 9}
        one = chat.create(model="small", messages=MESSAGES, extra_body=own)
        assert one.choices[0].message.content == ANSWER
        text = client.completions.create(model="small", prompt="Rain falls", echo=True, logprobs=1)
        assert text.choices[0].text == ANSWER
        with pytest.raises(openai.BadRequestError) as refused:
            chat.create(model="small", messages=MESSAGES, top_p=7)
        assert refused.value.param == "top_p"
        with pytest.raises(openai.NotFoundError):
            chat.create(model="large", messages=MESSAGES)


def test_openai_asynchronous(server, openai):
    async def talk():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            create = client.chat.completions.create
            asked = [
                create(model="small", messages=[{"role": "user", "content": each}])
                for each in CHATS
            ]
            answers = [done.choices[0].message.content for done in await asyncio.gather(*asked)]
            said = ""
            async for chunk in await create(model="small", messages=MESSAGES, stream=True):
                said += chunk.choices[0].delta.content or ""
            return answers, said

    assert asyncio.run(talk()) == ([*CHATS.values()], ANSWER)


@pytest.mark.parametrize("streams", [True, False])
def test_llm(server, tmp_path, streams):
    pytest.importorskip("llm")
    entry = f"- model_id: mine\n  model_name: small\n  api_base: {server.url}/v1\n"
    (tmp_path / "extra-openai-models.yaml").write_text(entry)
    environment = own_environment(LLM_USER_PATH=str(tmp_path))
    command = [sys.executable, "-m", "llm", "-m", "mine", "--key", "none", QUESTION]
    command += [] if streams else ["--no-stream"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path
    )
    assert done.stdout.strip() == ANSWER, done.stderr


def test_schemathesis(server, tmp_path):
    pytest.importorskip("schemathesis")
    command = [str(Path(sys.executable).with_name("schemathesis"))]
    command += ["run", f"{server.url}/openapi.json", "--checks", "not_a_server_error"]
    command += [
        "--max-examples",
        "20",
        "--seed",
        "1",
        "--request-timeout",
        "60",
        "--phases",
        "examples,coverage,fuzzing",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, env=own_environment(), cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert server.chat(QUESTION)["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.skipif(CANARY is None, reason="needs compatcanary of npm")
def test_compatcanary(server):
    command = [CANARY, "scan", "--base-url", f"{server.url}/v1", "--model", "small"]
    command += ["--profile", "chat", "--api-key", "none", "--fail-on", "never"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=own_environment()
    )
    # What else it tries, calls of tools and answers of a given structure, no model here can do.
    for probe in ("Model discovery", "Chat Completions", "Chat streaming"):
        assert re.search(rf"PASS +{probe}", done.stdout), done.stdout + done.stderr
