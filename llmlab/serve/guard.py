"""Who may ask: Host, Origin and key, before anything else is looked at."""

import hmac
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from llmlab.serve.answers import json_response
from llmlab.serve.errors import RequestError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = ("/", "/page.js", "/page.css", "/chats.js", "/openapi.json", "/health")  # without a key
_CORS = (
    ("access-control-allow-methods", "GET, POST, OPTIONS"),
    ("access-control-allow-headers", "authorization, content-type"),
    ("access-control-expose-headers", "x-llmlab-warning, retry-after"),
    ("access-control-max-age", "600"),
)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Let through who may ask.

    A page of another site that the user's browser shows can send requests to this machine, also
    under a name of its own that it points here. Its Origin or the Host give it away.

    Parameters
    ----------
    host
        Where the server listens.
    api_key
        What `Authorization: Bearer` must say; None: nothing.
    origins
        Further origins whose pages may ask, as `https://example.org`.
    """

    def __init__(self, app: ASGIApp, host: str, api_key: str | None, origins: Sequence[str]):
        self._app, self._key, self._origins = app, api_key, frozenset(origins)
        self._names = {*LOOPBACK, host.lower()}
        self._reachable = not is_loopback(host)
        if self._reachable:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        extra = [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")]
        if origin in self._origins:
            extra += [("access-control-allow-origin", str(origin)), ("vary", "Origin")]

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode("latin-1")) for name, value in extra]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            self._check(scope, headers)
        except RequestError as error:
            await json_response(error.body(), error.status, error.headers)(scope, receive, sending)
            return
        if scope["method"] == "OPTIONS" and origin in self._origins:
            await json_response({}, 200, dict(_CORS))(scope, receive, sending)
            return
        if origin in self._origins:
            extra.append(_CORS[2])
        await self._app(scope, receive, sending)

    def _check(self, scope: Scope, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise RequestError(
                "the Host of this request isn't one of this server", status=403, code="foreign_host"
            )
        origins = headers.getlist("origin")
        own = (f"http://{hosts[0]}", f"https://{hosts[0]}")
        if any(origin not in self._origins and origin not in own for origin in origins):
            raise RequestError(
                "the Origin of this request is another site; the server's serve.cors= names those "
                "that may ask",
                status=403,
                code="foreign_origin",
            )
        open_to_all = scope["path"] in OPEN or scope["method"] == "OPTIONS"
        if self._key is None or open_to_all:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self._key.encode())
        if scheme.lower() != "bearer" or not right:
            raise RequestError(
                "wrong or missing key; send it as Authorization: Bearer KEY",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return self._reachable  # a name can be pointed here by anybody, an address can't
