"""Traces by OpenTelemetry: what each request spent its time on. Off unless the environment asks.

Spans hold routes, statuses, ids and counts: never a question, an answer, a file's name or text, a
key, or the message of an exception. The packages are imported only when tracing is on.

The environment is OpenTelemetry's own: OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) names a
collector that takes OTLP over HTTP; OTEL_TRACES_EXPORTER is otlp, console or none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.observing import note
from rag.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

Value: TypeAlias = bool | int | float | str
Origin: TypeAlias = Any
"""A place in a trace, to hand on to where the work is done; None if tracing is off."""

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
UNTRACED: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked all the time by machines; not worth a trace."""


class Span(Protocol):
    """A stretch of work that has begun."""

    def tell(self, **facts: Value) -> None:
        """Add facts; their names get the prefix `youju.`."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """End it; of an error only the kind is told. Only the first call counts."""
        ...


class Tracing(Protocol):
    """Makes spans."""

    @property
    def on(self) -> bool:
        """Whether anything is traced."""
        ...

    def here(self) -> Origin:
        """Return the place in the trace that the caller is in."""
        ...

    def begin(self, name: str, **facts: Value) -> Span:
        """Begin a span below the caller's, without becoming what further spans are below of."""
        ...

    def past(self, name: str, seconds: float, error: str = "", **facts: Value) -> None:
        """Record a span of its own trace that took so many seconds and ended now.

        Args:
            name: What was done.
            seconds: How long it took, >= 0.
            error: The kind of error it ended with; "" for none.
            facts: As in `Span.tell`.
        """
        ...

    def within(
        self, name: str, origins: Sequence[Origin] = (), **facts: Value
    ) -> AbstractContextManager[Span]:
        """Run a `with` block as a span that spans begun inside are below of.

        Args:
            name: What is done.
            origins: For whom: it is below the first and linked to the others; () for the caller.
            facts: As in `Span.tell`.
        """
        ...

    def close(self) -> None:
        """Send what is still to be sent."""
        ...


class _NoSpan:
    def tell(self, **facts: Value) -> None:
        pass

    def end(self, error: BaseException | None = None) -> None:
        pass


class NoTracing:
    """Traces nothing, and imports nothing."""

    on = False

    def here(self) -> Origin:
        """Return None."""
        return None

    def begin(self, name: str, **facts: Value) -> Span:
        """Return a span that is nowhere."""
        return _NoSpan()

    def past(self, name: str, seconds: float, error: str = "", **facts: Value) -> None:
        """Do nothing."""

    def within(
        self, name: str, origins: Sequence[Origin] = (), **facts: Value
    ) -> AbstractContextManager[Span]:
        """Just run the block."""
        return nullcontext(_NoSpan())

    def close(self) -> None:
        """Do nothing."""


class _OtelSpan:
    def __init__(self, span: OtelSpan) -> None:
        self.inner = span

    def tell(self, **facts: Value) -> None:
        for name, value in facts.items():
            self.inner.set_attribute(f"youju.{name}", value)

    def end(self, error: BaseException | None = None) -> None:
        if not self.inner.is_recording():
            return
        if error is not None:
            _fail(self.inner, type(error).__name__)
        self.inner.end()


class OtelTracing:
    """Traces to where a provider of OpenTelemetry's SDK sends them.

    Args:
        provider: Closed by `close`.
    """

    on = True

    def __init__(self, provider: TracerProvider) -> None:
        from importlib.metadata import version

        self._provider = provider
        self._tracer = provider.get_tracer("youju", version("youju"))

    def here(self) -> Origin:
        """Return the context that the caller runs in."""
        from opentelemetry.context import get_current

        return get_current()

    def begin(self, name: str, **facts: Value) -> Span:
        """See `Tracing`."""
        span = _OtelSpan(self._tracer.start_span(name))
        span.tell(**facts)
        return span

    def past(self, name: str, seconds: float, error: str = "", **facts: Value) -> None:
        """See `Tracing`."""
        from opentelemetry.context import Context

        now = time.time_ns()
        begin = now - int(seconds * 1e9)
        span = _OtelSpan(self._tracer.start_span(name, context=Context(), start_time=begin))
        span.tell(**facts)
        if error:
            _fail(span.inner, error)
        span.inner.end(end_time=now)

    @contextmanager
    def within(self, name: str, origins: Sequence[Origin] = (), **facts: Value) -> Iterator[Span]:
        """See `Tracing`."""
        from opentelemetry.trace import Link, get_current_span, use_span

        links = [Link(get_current_span(other).get_span_context()) for other in origins[1:]]
        context = origins[0] if origins else None
        span = _OtelSpan(self._tracer.start_span(name, context=context, links=links))
        span.tell(**facts)
        with (
            _ended(span),
            use_span(span.inner, record_exception=False, set_status_on_exception=False),
        ):
            yield span

    @contextmanager
    def request(self, method: str, headers: Headers) -> Iterator[OtelSpan]:
        """Run a `with` block as the span of a request, in the trace that its headers name."""
        from opentelemetry.trace import SpanKind, use_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        inner = self._tracer.start_span(
            method,
            context=TraceContextTextMapPropagator().extract(named),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
        )
        with (
            _ended(_OtelSpan(inner)),
            use_span(inner, record_exception=False, set_status_on_exception=False),
        ):
            yield inner

    def close(self) -> None:
        """Send what is still to be sent, for 5 seconds at most, and stop."""
        self._provider.force_flush(5000)
        self._provider.shutdown()


class Traced:
    """An ASGI layer that makes a span of every request; stands inside `Observed`.

    Args:
        app: What is traced.
        tracing: Where the spans go.
    """

    def __init__(self, app: ASGIApp, tracing: OtelTracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        status = 0

        async def traced_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        with self._tracing.request(method, Headers(scope=scope)) as span:
            note(scope, trace_id=f"{span.get_span_context().trace_id:032x}")
            try:
                await self._app(scope, receive, traced_send)
            finally:
                route = getattr(scope.get("route"), "path", "")
                if route:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
                if status:
                    span.set_attribute("http.response.status_code", status)
                span.set_attribute("youju.request_id", scope["state"]["request_id"])
                if status >= 500:
                    _fail(span, str(status))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def tracing_from(environ: Mapping[str, str]) -> Tracing:
    """Return the tracing that an environment asks for.

    Raises:
        ConfigError: If it asks for an exporter or a protocol that is not here.
        MissingExtra: If the extra `otel` is not installed.
    """
    kind = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    wanted = kind or any(environ.get(name, "").strip() for name in ENDPOINTS)
    if not wanted or disabled or kind == "none":
        return NoTracing()
    if kind not in ("", "otlp", "console"):
        raise ConfigError(
            f"OTEL_TRACES_EXPORTER is {kind!r:.100}.", do="Expected otlp, console or none."
        )
    protocol = next((environ[name] for name in PROTOCOLS if environ.get(name)), "http/protobuf")
    if kind != "console" and protocol != "http/protobuf":
        raise ConfigError(
            f"Traces cannot be sent by the protocol {protocol!r:.100}.",
            do="Expected OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or unset; the collector's "
            "port for it is 4318.",
        )
    return OtelTracing(_provider(environ, console=kind == "console"))


def _provider(environ: Mapping[str, str], *, console: bool) -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import (
            BatchSpanProcessor,
            ConsoleSpanExporter,
            SpanExporter,
        )
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise MissingExtra("Tracing, which OTEL_... variables ask for,", "otel") from None
    import sys

    name = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": "youju"}
    exporter: SpanExporter = ConsoleSpanExporter(out=sys.stderr) if console else OTLPSpanExporter()
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


@contextmanager
def _ended(span: Span) -> Iterator[None]:
    """End a span with its `with` block, however that ends."""
    try:
        yield
    except BaseException as error:
        span.end(error)
        raise
    else:
        span.end()


def _fail(span: OtelSpan, kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)
