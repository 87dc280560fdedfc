"""Requests are traced when the environment asks, and nothing that anybody wrote is in a trace."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from served import Served, serving
from starlette.testclient import TestClient

from api.app import make_app
from api.batching import Search, SearchBatcher
from api.observing import Meters
from api.tracing import NoTracing, OtelTracing, tracing_from
from rag.build import build_rag
from rag.config import Settings
from rag.errors import ConfigError, MissingExtra
from rag.opened import OpenStores
from rag.store.tables import DEFAULT_PROJECT

TEXT = b"# Pump\n\nThe D40 weighs 185 kg and needs 230 V. It is serviced every six months.\n"
QUESTION = "How much does the D40 weigh?"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def in_memory() -> tuple[OtelTracing, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OtelTracing(provider), exporter


@dataclass(frozen=True)
class Watched:
    """A server and the spans it makes."""

    served: Served
    exporter: InMemorySpanExporter
    store_id: str
    file_id: str

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans() if span.name == name]

    def until(self, name: str, value: object) -> None:
        """Wait for a span: it ends a moment after the client has its answer."""
        end = time.monotonic() + 20
        while all(facts(span).get(name) != value for span in self.spans()):
            assert time.monotonic() < end, [span.to_json() for span in self.spans()]
            time.sleep(0.01)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, converted_models: Path) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("traced")
    (folder / "models").symlink_to(converted_models, target_is_directory=True)
    tracing, exporter = in_memory()
    with serving(folder, tracing) as running:
        client = running.client()
        file = client.files.create(file=("secret-pump.md", TEXT), purpose="assistants")
        store = client.vector_stores.create(name="secret store")
        client.vector_stores.files.create_and_poll(
            file.id, vector_store_id=store.id, poll_interval_ms=50
        )
        watched = Watched(running, exporter, store.id, file.id)
        watched.until("youju.file", file.id)
        yield watched


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def ask(watched: Watched, *, stream: bool, **headers: str) -> Any:
    body = {"model": f"youju:{watched.store_id}", "input": QUESTION, "stream": stream}
    with watched.served.http() as http:
        answer = http.post("/v1/responses", json=body, headers=headers)
    assert answer.status_code == 200
    assert "185 kg" in answer.text
    watched.until("youju.request_id", answer.headers["x-request-id"])
    return answer


@pytest.mark.parametrize("stream", [False, True])
def test_a_question_is_one_trace_with_its_steps(watched: Watched, stream: bool) -> None:
    watched.exporter.clear()
    answer = ask(watched, stream=stream)

    spans = {span.name: span for span in watched.spans()}
    assert set(spans) == {"POST /v1/responses", "retrieval", "search batch", "generation"}
    root = spans["POST /v1/responses"]
    assert facts(root) == {
        "http.request.method": "POST",
        "http.route": "/v1/responses",
        "http.response.status_code": 200,
        "youju.request_id": answer.headers["x-request-id"],
    }
    assert len({span.context.trace_id for span in spans.values()}) == 1
    below = {"retrieval": root, "search batch": spans["retrieval"], "generation": root}
    for name, parent in below.items():
        found = spans[name].parent
        assert found is not None, name
        assert found.span_id == parent.context.span_id, name
    assert facts(spans["retrieval"]) == {
        "youju.stores": 1, "youju.queries": 1, "youju.passages": 1,
    }  # fmt: skip
    assert facts(spans["search batch"]) == {"youju.searches": 1}
    assert facts(spans["generation"])["youju.refused"] is False
    assert all(span.status.is_unset for span in spans.values())


def test_a_file_that_is_ingested_is_a_trace_of_its_own(watched: Watched) -> None:
    good_file = watched.served.client().files.create(
        file=("good.md", TEXT + b"again"), purpose="assistants"
    )
    watched.served.client().vector_stores.files.create(watched.store_id, file_id=good_file.id)
    with watched.served.http() as http:
        bad = http.post(
            "/v1/files", data={"purpose": "assistants"}, files={"file": ("bad.pdf", b"%PDF-1.4 x")}
        ).json()
    listed = watched.served.client().vector_stores.files.create_and_poll(
        bad["id"], vector_store_id=watched.store_id, poll_interval_ms=50
    )
    assert listed.status == "failed"
    watched.until("youju.file", good_file.id)
    watched.until("youju.file", bad["id"])

    found = {facts(span)["youju.file"]: span for span in watched.of("ingest file")}
    good = found[good_file.id]
    assert good.parent is None
    assert facts(good) == {
        "youju.store": watched.store_id, "youju.file": good_file.id,
        "youju.status": "completed",
    }  # fmt: skip
    assert good.end_time is not None
    assert good.start_time is not None
    assert good.end_time > good.start_time
    assert facts(found[bad["id"]])["error.type"] == "failed"


def test_the_trace_of_the_caller_goes_on(watched: Watched) -> None:
    watched.exporter.clear()
    ask(watched, stream=False, traceparent=f"00-{TRACE}-{PARENT}-01", baggage="user=ann")
    (root,) = watched.of("POST /v1/responses")
    assert f"{root.context.trace_id:032x}" == TRACE
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == PARENT


def test_no_words_and_no_key_are_in_a_trace(watched: Watched) -> None:
    with watched.served.http("sk-youju-hidden") as http:
        http.get("/v1/files?order=asc&purpose=hush", headers={"x-request-id": "seen-1"})
        http.request("BREW", "/hush-path")
        http.post("/v1/responses", json={"model": "youju:hush-model", "input": "hush"})
        http.get("/livez")
    ask(watched, stream=True)
    watched.until("youju.request_id", "seen-1")

    told = "\n".join(span.to_json() for span in watched.spans())
    for word in ("D40", "185 kg", "pump", "secret", "hush", "hidden", "BREW", "localhost"):
        assert word not in told, word
    assert "seen-1" in told
    assert "livez" not in told
    assert not any(span.events for span in watched.spans())


def test_searches_that_run_together_are_linked(samples_home: Path) -> None:
    tracing, exporter = in_memory()
    rag = build_rag(Settings(home=samples_home))
    store = rag.catalog.get("samples").id

    async def work() -> None:
        opened = OpenStores(rag)
        batcher = SearchBatcher(rag, opened, Meters(CollectorRegistry()), tracing)

        async def one(number: int) -> None:
            with tracing.within(f"request {number}"):
                await batcher.search(Search(DEFAULT_PROJECT, store, "annual leave", 3))

        await asyncio.gather(one(1), one(2))

    asyncio.run(work())
    spans = {span.name: span for span in exporter.get_finished_spans()}
    batch, first, second = spans["search batch"], spans["request 1"], spans["request 2"]
    assert facts(batch) == {"youju.searches": 2}
    assert batch.parent is not None
    assert batch.parent.span_id == first.context.span_id
    assert [link.context.span_id for link in batch.links] == [second.context.span_id]
    rag.db.close()


def test_an_error_is_told_by_its_kind_alone() -> None:
    tracing, exporter = in_memory()
    with pytest.raises(ValueError, match="hush"), tracing.within("work"):
        raise ValueError("hush")
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert not span.status.is_unset
    assert facts(span) == {"error.type": "ValueError"}
    assert span.events == ()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_off_unless_asked_for(environ: dict[str, str]) -> None:
    tracing = tracing_from(environ)
    assert isinstance(tracing, NoTracing)
    with tracing.within("work") as span:
        span.tell(number=1)
        assert tracing.here() is None
    tracing.begin("work").end(ValueError())
    tracing.past("work", 1.0)
    tracing.close()


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "console"},
    ],
)
def test_on_when_asked_for(environ: dict[str, str]) -> None:
    tracing = tracing_from(environ)
    assert isinstance(tracing, OtelTracing)
    tracing.close()


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "otlp, console or none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "4318"),
    ],
)
def test_what_is_not_here_is_named(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        tracing_from(environ)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("opentelemetry.exporter"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    with pytest.raises(MissingExtra, match=r"youju\[otel\]"):
        tracing_from({"OTEL_TRACES_EXPORTER": "otlp"})


def test_when_off_nothing_of_the_extra_is_needed() -> None:
    """FastAPI brings OpenTelemetry's bare interface, not what the extra `otel` brings."""
    code = (
        "import sys; sys.modules |= {'opentelemetry.sdk': None, 'opentelemetry.exporter': None};"
        "import api.app; from api.tracing import tracing_from; tracing_from({}).begin('x').end()"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_frameworks_own_telemetry_is_off(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    rag = build_rag(Settings(home=home))
    app = make_app(rag, Meters(CollectorRegistry()), NoTracing())
    assert TestClient(app).get("/livez").status_code == 200
    assert TestClient(app).get("/hush?hush=1").status_code == 404
    assert exporter.get_finished_spans() == ()
    rag.db.close()


def test_spans_of_many_requests_do_not_mix(watched: Watched) -> None:
    watched.exporter.clear()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ask(watched, stream=False), range(8)))
    roots = {span.context.trace_id: span for span in watched.of("POST /v1/responses")}
    assert len(roots) == 8
    for name in ("retrieval", "generation"):
        found = watched.of(name)
        assert len(found) == 8
        for span in found:
            assert span.parent is not None
            assert span.parent.span_id == roots[span.context.trace_id].context.span_id
