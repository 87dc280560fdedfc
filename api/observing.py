"""What is known of every request: its id, a log line, numbers for Prometheus, safe headers.

One pure ASGI layer around the application, so that streams pass through untouched. Document text
is never logged; questions and the names of files only where the setting `log_content` asks for it.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)

SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Sent with every answer that does not say otherwise."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("youju")


class Meters:
    """What /metrics shows. Labels hold routes and words, never what a client wrote.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "youju_requests_total",
            "Requests by route, method and status.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "youju_request_seconds",
            "Seconds until the last byte of the answer.",
            ["route"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.running = Gauge(
            "youju_requests_running",
            "Requests that are being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.running.set(0)  # a dead process of the same number may have left its own
        self.refused = Counter(
            "youju_requests_refused_total",
            "Requests refused at once, by reason.",
            ["reason"],
            registry=registry,
        )
        self.batches = Histogram(
            "youju_search_batch_size",
            "Searches that ran together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.answers = Counter(
            "youju_answers_total", "Answers by outcome.", ["outcome"], registry=registry
        )
        self.files = Counter(
            "youju_files_ingested_total",
            "Uploaded files by what became of them.",
            ["status"],
            registry=registry,
        )


class Observed:
    """The outermost layer.

    Args:
        app: What is observed.
        meters: Where it is counted.
        log_content: Whether log lines hold what `note_content` is given.
    """

    def __init__(self, app: ASGIApp, meters: Meters, *, log_content: bool = False) -> None:
        self._log_content = log_content
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        told = False  # whether the answer is complete
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else new_request_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["log_content"] = self._log_content
        status = 0
        gone = False  # whether the client left before that

        async def observed_receive() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or (message["type"] == "http.disconnect" and not told)
            return message

        async def observed_send(message: Message) -> None:
            nonlocal status, told
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)
            told = message["type"] == "http.response.body" and not message.get("more_body", False)

        self._meters.running.inc()
        try:
            await self._app(scope, observed_receive, observed_send)
        except Exception:  # a fault that was logged and told keeps its connection
            if not (told and status == 500):
                raise
        finally:
            self._meters.running.dec()
            spent = time.perf_counter() - begin
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope.get("route") else "none"
            self._meters.requests.labels(route, method, str(status)).inc()
            self._meters.seconds.labels(route).observe(spent)
            log.info(
                "request",
                request_id=request_id,
                method=scope["method"],
                route=route,
                status="gone" if gone or not status else status,
                ms=round(1000 * spent, 1),
                **scope["state"].get("log", {}),
            )


def new_request_id() -> str:
    """Return an id for a request that came without one."""
    return f"req_{secrets.token_hex(12)}"


def note(scope: Scope, **fields: Any) -> None:  # noqa: ANN401
    """Add fields to a request's log line."""
    scope.setdefault("state", {}).setdefault("log", {}).update(fields)


def note_content(scope: Scope, **fields: Any) -> None:  # noqa: ANN401
    """Add what a client wrote to a request's log line, if the setting `log_content` is on."""
    if scope.get("state", {}).get("log_content", False):
        note(scope, **fields)


def failed(scope: Scope, error: BaseException) -> None:
    """Log what went wrong inside the server, with the request's id."""
    log.error("failed", request_id=scope.get("state", {}).get("request_id", ""), exc_info=error)
