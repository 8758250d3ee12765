"""The application: which path does what."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmlab.serve.answers import Answering, json_response, new_id
from llmlab.serve.body import read_body
from llmlab.serve.errors import RequestError
from llmlab.serve.fields import chat_schema, completion_schema
from llmlab.serve.forms import ChatForm, CompletionForm, Form
from llmlab.serve.guard import Guard
from llmlab.serve.models import Limits, Models, Served
from llmlab.serve.openapi import description
from llmlab.serve.requests import Job, chat_job, checked, completion_job, parse

log = logging.getLogger("llmlab")

PAGE = {"/": "page.html", "/page.js": "page.js", "/chats.js": "chats.js", "/page.css": "page.css"}
_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
Maker = Callable[[dict[str, Any], Served, Limits, list[str]], Job]


class Service:
    """The endpoints, with the models behind them."""

    def __init__(self, models: Models, limits: Limits):
        self.models, self._limits = models, limits
        self._texts = ThreadPoolExecutor(1, "texts")  # one after the other: templates have a pipe
        self._schemas = chat_schema(), completion_schema()

    def routes(self) -> list[Route]:
        """Return which path does what."""
        post, get = ["POST"], ["GET"]
        return [
            Route("/v1/chat/completions", self.chat, methods=post),
            Route("/v1/completions", self.completion, methods=post),
            Route("/v1/models", self.list_models, methods=get),
            Route("/v1/models/{name}", self.one_model, methods=get),
            Route("/health", self.health, methods=get),
            Route("/openapi.json", self.openapi, methods=get),
            *(Route(path, _page(path), methods=get) for path in PAGE),
        ]

    async def chat(self, request: Request) -> Response:
        """Answer a chat."""
        return await self._answer(request, self._schemas[0], chat_job, ChatForm, "chatcmpl")

    async def completion(self, request: Request) -> Response:
        """Continue a text."""
        return await self._answer(request, self._schemas[1], completion_job, CompletionForm, "cmpl")

    async def list_models(self, request: Request) -> Response:
        """List the models."""
        return json_response({"object": "list", "data": [_model(each) for each in self.models]})

    async def one_model(self, request: Request) -> Response:
        """Describe one model."""
        return json_response(_model(self.models.find(request.path_params["name"])))

    async def health(self, request: Request) -> Response:
        """Say that the server is alive, and how busy."""
        found = [each.scheduler for each in self.models]
        running, waiting = sum(s.running for s in found), sum(s.waiting for s in found)
        return json_response({"status": "ok", "running": running, "waiting": waiting})

    async def openapi(self, request: Request) -> Response:
        """Describe all of this."""
        return json_response(description(*self._schemas))

    async def _answer(
        self, request: Request, schema: Any, make: Maker, form: type[Form], prefix: str
    ) -> Response:
        limits = self._limits
        body = await read_body(request, limits.body, limits.upload)
        data, warnings = checked(parse(body), schema)
        served = self.models.find(data.get("model"))
        loop = asyncio.get_running_loop()
        job = await loop.run_in_executor(self._texts, make, data, served, limits, warnings)
        served.scheduler.submit(job.answer)
        return Answering(job, form(job, *new_id(prefix)), limits.seconds)


def application(
    models: Models, limits: Limits, host: str, api_key: str | None, origins: Sequence[str]
) -> Starlette:
    """Return the application that a server runs."""

    @asynccontextmanager
    async def working(app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.ensure_future(each.scheduler.run()) for each in models]
        yield
        for task in tasks:
            task.cancel()

    return Starlette(
        routes=Service(models, limits).routes(),
        lifespan=working,
        middleware=[Middleware(Guard, host=host, api_key=api_key, origins=origins)],
        exception_handlers={
            RequestError: _refused,
            HTTPException: _unknown,
            Exception: _broken,
        },
    )


def _model(served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "llmlab",
        "context_length": served.model.max_seq_len,
        "template": "none" if served.is_raw else "chat",
    }


def _page(path: str) -> Any:
    """Return the endpoint of a part of the page."""
    name = PAGE[path]
    content = (files("llmlab.serve") / "page" / name).read_bytes()
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
    kind = f"{_KINDS[name.rpartition('.')[2]]}; charset=utf-8"

    async def part(request: Request) -> Response:
        return Response(content, 200, headers, kind)

    return part


async def _refused(request: Request, error: Any) -> Response:
    return json_response(error.body(), error.status, error.headers)


async def _unknown(request: Request, error: Any) -> Response:
    text = {404: f"there is no {request.url.path[:100]}", 405: f"{request.method} isn't for here"}
    told = RequestError(text.get(error.status_code, str(error.detail)), None, error.status_code)
    return json_response(told.body(), error.status_code, error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    told = RequestError("the server failed; its log says why", status=500)
    return json_response(told.body(), 500)
