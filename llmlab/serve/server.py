"""The server around the application: sockets, connections, signals."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmlab.errors import ResourceError
from llmlab.signals import Interrupted, handled

CONNECTIONS = 512
HEADERS = 64 << 10  # bytes
HEADER_SECONDS = 10.0
GRACE = 5  # seconds for what is being sent when the server ends
_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Protocol(H11Protocol):
    """HTTP/1.1 for clients that send the headers of a request within a time."""

    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._unwatch()
        elif self.late is None:
            self.late = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _unwatch(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None

    def _give_up(self) -> None:
        self.late = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.write(_LATE)
            self.transport.close()


class Server(uvicorn.Server):
    """A server that ends what it is saying before it ends itself.

    `end_now` is called at the first signal, in the event loop: it ends all answers where they are.
    """

    def __init__(self, config: uvicorn.Config, end_now: Callable[[], None]):
        super().__init__(config)
        self._end_now, self._hurry = end_now, False
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self) -> None:
        """Take the wish to end; the second one as a hurry. For handlers of signals."""
        self._hurry, self.should_exit = self.should_exit, True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end_now)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `Stopping`: uvicorn has them only while its event loop runs."""
        self._loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._loop = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say to the end what is being said, then end the application."""
        leaving = asyncio.ensure_future(self._leave())
        await super().shutdown(sockets)
        leaving.cancel()

    async def _leave(self) -> None:
        """Close the connections that are left, in a hurry or after `GRACE` seconds.

        Their answers end as when clients go away; uvicorn would cancel them, with a traceback.
        """
        late = asyncio.get_running_loop().time() + GRACE
        while not self._hurry and asyncio.get_running_loop().time() < late:
            await asyncio.sleep(0.05)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # pyright: ignore[reportAttributeAccessIssue]


class Stopping:
    """While open, SIGINT and SIGTERM end `server`, or raise `Interrupted` if it isn't there yet.

    Outside the main thread signals can't be held, and this does nothing.
    """

    server: Server | None = None

    def __init__(self) -> None:
        self._interrupted = False
        self._holding = handled(self._handle, ("SIGINT", "SIGTERM"))

    def __enter__(self) -> "Stopping":
        self._holding.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._holding.__exit__(None, None, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.server is not None:
            self.server.end()
        elif not self._interrupted:
            self._interrupted = True
            raise Interrupted(number)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raise `ResourceError` if it can't."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(CONNECTIONS)
    except OSError as error:
        found.close()
        reason = (error.strerror or str(error)).lower()
        raise ResourceError(
            f"serve.host={host} serve.port={port}: {reason}; choose another: serve.port={port + 1}"
        ) from None
    return found


def server_of(app: Any, end_now: Callable[[], None]) -> Server:
    """Return a server that is ready to run."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=HEADERS,
    )
    return Server(config, end_now)
