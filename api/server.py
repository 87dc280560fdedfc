"""What uvicorn does not do by itself: bound the time and the size of a request's headers."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.errors import INVALID, error_body
from api.observing import SAFE_HEADERS, new_request_id

HEADERS_S = 15.0
"""Seconds in which a request's headers must be there: after connecting, or their first byte."""

HEADERS_BYTES = 64 * 1024
"""Bytes that may arrive before a request's headers are whole."""


class SlowHeadersClosed(HttpToolsProtocol):
    """Uvicorn's protocol, with a clock and a count while a request's headers are not whole."""

    _clock: asyncio.TimerHandle | None = None
    _arrived = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Read on, unless too much has come without the headers being whole."""
        self._arrived += len(data)
        super().data_received(data)
        if self._clock is not None and self._arrived > HEADERS_BYTES:
            self._close()

    def on_message_begin(self) -> None:
        """Start the clock for another request."""
        self._start_clock()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the shape of all errors, and close."""
        body = json.dumps(error_body(msg, INVALID, "invalid_http", None)).encode()
        headers = {
            **SAFE_HEADERS,
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-request-id": new_request_id(),
            "connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{lines}\r\n".encode() + body)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _start_clock(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(HEADERS_S, self._close)
            self._arrived = 0

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
