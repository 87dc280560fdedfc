"""Ends the work for a client that has gone away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from anyio import CancelScope
from fastapi import Request

from api.errors import ApiError

T = TypeVar("T")


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; cancel it when the client disconnects.

    The request's body must have been read. Work that runs in a thread goes on to its next step,
    and is waited for: until then it counts among the requests, and keeps its place among them.

    Raises:
        ApiError: If the client has gone; nobody is left to read it.
    """
    with CancelScope() as scope:  # a task cancelled by asyncio would leave its thread's place free
        watch = asyncio.ensure_future(_disconnected(request))

        def leave(_watch: asyncio.Future[None]) -> None:
            scope.cancel()

        watch.add_done_callback(leave)
        try:
            return await work
        except Exception:
            if not scope.cancel_called:  # else a thread has told in its way that it was cancelled
                raise
        finally:
            watch.remove_done_callback(leave)
            watch.cancel()
    raise ApiError(499, "The client has gone away.", code="client_gone")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
