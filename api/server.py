"""What uvicorn does not do by itself: close connections that send no request in time."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 15.0
"""Seconds in which a new connection must have sent the headers of its first request."""


class SlowHeadersClosed(HttpToolsProtocol):
    """Uvicorn's protocol, with a clock from the moment that a connection is made."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self.loop.call_later(HEADERS_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if getattr(self, "cycle", None) is None and not self.transport.is_closing():
            self.transport.close()
