"""Answers in OpenAI's form, whole or as server-sent events."""

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmlab.serve.errors import RequestError
from llmlab.serve.forms import Form
from llmlab.serve.requests import Job

WARNING = "X-Llmlab-Warning"
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def dumps(value: Any) -> str:
    """Return JSON on one line, in ASCII: half characters, too, can be sent so."""
    return json.dumps(value, separators=(",", ":"))


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an answer of JSON."""
    return Response(dumps(value), status, dict(headers or {}), "application/json")


class Answering(Response):
    """Wait for a job and send what comes, until its client goes away.

    After `seconds` the answer ends where it is.
    """

    def __init__(self, job: Job, form: Form, seconds: float):
        self._job, self._form, self._seconds = job, form, seconds
        told = " ".join("; ".join(job.warnings)[:2000].split())
        self._warnings = {WARNING: told} if told else {}
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        work = self._stream(send) if self._job.streams else self._whole(scope, receive, send)
        tasks = {asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._job.answer.cancel()
            for task in tasks:
                task.cancel()

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._job.answer
        tokens: list[list[Any]] = [[] for _ in answer.texts]
        async for number, piece in answer.pieces(self._seconds):
            if piece is not None:
                tokens[number] += piece.tokens
        if answer.failed:
            error = RequestError("the server failed; its log says why", status=500)
            await json_response(error.body(), 500, self._warnings)(scope, receive, send)
            return
        body = self._form.whole(tokens)
        await json_response(body, 200, self._warnings)(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        answer, form = self._job.answer, self._form
        head = {"Content-Type": "text/event-stream; charset=utf-8", **STREAM_HEADERS}
        raw = [(k.lower().encode(), v.encode()) for k, v in {**head, **self._warnings}.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

        async def event(value: Any) -> None:
            text = value if isinstance(value, str) else dumps(value)
            body = f"data: {text}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.sleep(0)  # so that who has gone is noticed before the next

        for chunk in form.opening():
            await event(chunk)
        async for number, piece in answer.pieces(self._seconds):
            if piece is not None:
                await event(form.chunk(number, piece))
            elif not answer.failed:
                await event(form.last(number))
        if answer.failed:
            await event(RequestError("the server failed; its log says why", status=500).body())
        elif self._job.counts_usage:
            await event(form.usage_chunk())
        await event("[DONE]")
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    """Wait until the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def new_id(prefix: str) -> tuple[str, int]:
    """Return an id for an answer, and the time in seconds."""
    return f"{prefix}-{secrets.token_hex(12)}", int(time.time())
