"""How many requests may run at once, how large they may be, and how slowly they may arrive.

A pure ASGI layer in front of the application: what is refused here has cost nothing.
"""

from __future__ import annotations

import asyncio
import json
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_body
from api.observing import Meters

ALWAYS = frozenset({"/livez", "/readyz", "/metrics"})
"""Answered also when the server is full."""

PART_BYTES = 64 * 1024 * 1024
"""Largest part of an upload in parts, as OpenAI has it."""

_FORM_BYTES = 64 * 1024  # what a form adds to the file in it
_SLOWEST = 1024  # bytes a second that a body must have on average, after the first timeout


class Admission:
    """Refuses what is too much, too large or too slow.

    Args:
        app: Who answers the rest.
        most: Requests at once.
        body_bytes: Largest body of a request that uploads nothing.
        file_bytes: Largest file.
        timeout_s: Seconds in which more of a body must arrive; on average it must be 1 KiB/s.
        meters: Where refusals are counted.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        most: int,
        body_bytes: int,
        file_bytes: int,
        timeout_s: float,
        meters: Meters,
    ) -> None:
        self._app = app
        self._free = most
        self._body = body_bytes
        self._file = file_bytes
        self._timeout = timeout_s
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            await self._app(scope, receive, send)
            return
        if self._free <= 0:
            self._meters.refused.labels("overload").inc()
            await _refuse(
                send, 429, "The server is busy. Try again in a second.", "overloaded", wait=1
            )
            return
        if "\0" in scope["path"]:  # no object has such a name, and a database may refuse to look
            await _refuse(send, 400, "The URL holds a NUL character.", "invalid_url")
            return
        limit = self._limit(scope)
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and len(length) < 19 and int(length) > limit:
            await self._too_large(send, scope, limit)
            return
        self._free -= 1
        try:
            await self._guarded(scope, receive, send, limit)
        finally:
            self._free += 1

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        seen = 0
        whole = answered = started = False
        begin = time.monotonic()

        async def guarded_receive() -> Message:
            nonlocal seen, whole, answered
            if whole or started:  # what may still come is that the client goes away
                return await receive()
            left = begin + self._timeout + seen / _SLOWEST - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, min(left, self._timeout)))
            except TimeoutError:
                answered = True
                self._meters.refused.labels("slow").inc()
                await _refuse(send, 408, "The request took too long to arrive.", "too_slow")
                return {"type": "http.disconnect"}
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                whole = not message.get("more_body", False)
            if seen > limit:
                answered = True
                await self._too_large(send, scope, limit)
                return {"type": "http.disconnect"}
            return message

        async def guarded_send(message: Message) -> None:
            nonlocal started
            if not answered:
                started = True
                await send(message)

        await self._app(scope, guarded_receive, guarded_send)

    def _limit(self, scope: Scope) -> int:
        path = scope["path"]
        if path == "/v1/files":
            return self._file + _FORM_BYTES
        if path.startswith("/v1/uploads/") and path.endswith("/parts"):
            return PART_BYTES + _FORM_BYTES
        return self._body

    async def _too_large(self, send: Send, scope: Scope, limit: int) -> None:
        self._meters.refused.labels("large").inc()
        if scope["path"] == "/v1/files":
            message = f"The file is larger than the {self._file / 2**20:g} MiB allowed here."
            await _refuse(send, 413, message, "file_too_large")
            return
        message = f"The body is larger than the {limit:,} bytes allowed here."
        await _refuse(send, 413, message, "body_too_large")


async def _refuse(send: Send, status: int, message: str, code: str, *, wait: int = 0) -> None:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    body = json.dumps(error_body(message, kind, code, None)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if wait:
        headers.append((b"retry-after", str(wait).encode()))
    else:  # the rest of the body is not wanted
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
