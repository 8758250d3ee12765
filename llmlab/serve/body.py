"""Reading a request's body within limits of size and time."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from llmlab.serve.errors import RequestError

CLOSE = {"Connection": "close"}  # what comes after a body that wasn't read to its end isn't known


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """Return the body.

    One that is too long is read to its end, as far as time allows, and forgotten: a client that
    is still sending sees no answer.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        raise RequestError(
            f"Content-Type: expected application/json, found {ascii(kind)[1:-1][:60]}",
            status=415,
            headers=CLOSE,
        )
    declared = request.headers.get("content-length", "0")
    too_long = declared.isdigit() and int(declared) > most
    if too_long and "expect" in request.headers:
        raise _too_long(most)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                too_long = too_long or size > most
                if too_long:
                    parts.clear()
                else:
                    parts.append(part)
    except TimeoutError:
        if too_long:
            raise _too_long(most) from None
        raise RequestError(
            f"the body didn't come within {seconds:g} s", status=408, headers=CLOSE
        ) from None
    except ClientDisconnect:
        raise RequestError("the client has gone", status=400, headers=CLOSE) from None
    if too_long:
        raise _too_long(most)
    return b"".join(parts)


def _too_long(most: int) -> RequestError:
    return RequestError(
        f"the body is longer than {most:,} bytes, which this server takes",
        status=413,
        code="body_too_long",
        headers=CLOSE,
    )
