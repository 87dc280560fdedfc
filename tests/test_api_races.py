"""What happens in the middle of a request: objects that go, stores that live again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from served import serving
from upload_bench import Bench

import api.routes_chat
from api.observing import Meters
from api.routes_files import forget_file
from api.service import Service
from api.tracing import NoTracing
from api.upkeep import empty_store
from rag.store.answers import NewResponse, Responses
from rag.store.corpus import Store
from rag.store.tables import DEFAULT_PROJECT
from rag.store.vector_stores import DAY_S


class _Closing(NoTracing):
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Iterator[Bench]:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    made = Bench(tmp_path / "home")
    yield made
    made.rag.db.close()


@pytest.fixture
def service(bench: Bench) -> Service:
    return Service(bench.rag, Meters(CollectorRegistry()), NoTracing())


def test_tracing_ends_with_the_service(bench: Bench) -> None:
    tracing = _Closing()
    Service(bench.rag, Meters(CollectorRegistry()), tracing).close()
    assert tracing.closed == 1


def test_a_file_is_deleted_though_its_store_goes_meanwhile(
    bench: Bench, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bench.store()
    file = bench.put(store, "The pump needs oil.")
    remove = Store.remove_file

    def meanwhile(self: Store, file_id: str) -> bool:
        service.stores.delete(store.id)
        return remove(self, file_id)

    monkeypatch.setattr(Store, "remove_file", meanwhile)
    forget_file(service, file)

    assert service.files.get(DEFAULT_PROJECT, file) is None


def test_a_store_that_lives_again_keeps_what_is_still_in_it(
    bench: Bench, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bench.store()
    for _ in range(3):
        bench.put(store, "The pump needs oil.")
    bench.drain()
    past = int(time.time()) - 2 * DAY_S
    service.stores.change(store.id, {"expires_days": 1, "last_active_at": past})
    remove = Store.remove_file

    def meanwhile(self: Store, file_id: str) -> bool:
        service.stores.change(store.id, {"expires_days": None})
        return remove(self, file_id)

    monkeypatch.setattr(Store, "remove_file", meanwhile)
    empty_store(service, store.id)

    assert len(service.store_files.all_ids(store.id)) == 2


def test_feedback_on_an_answer_that_has_just_gone(bench: Bench, service: Service) -> None:
    new = NewResponse("resp_1", DEFAULT_PROJECT, None, "q", "a", False, [], [], {})
    service.responses.add(new)
    row = service.responses.get(DEFAULT_PROJECT, "resp_1")
    assert row is not None
    service.responses.delete("resp_1")

    assert service.responses.rate(row, "up", None, None) is None


# -- streams -----------------------------------------------------------------------------------


def test_streams_end_with_an_event_and_an_export_with_its_last_line(
    served_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("hush")

    long = "How heavy is the pump of the second plant, " * 40 + "?"
    with serving(served_home, prompt_tokens=256) as served, served.http() as http:
        http.post("/v1/vector_stores", json={"name": "a"}).raise_for_status()
        for question in (long, "How heavy?"):
            asked = {"model": "youju:a", "input": question}
            answer = http.post("/v1/responses", json=asked).json()["id"]
            http.post(f"/v1/responses/{answer}/feedback", json={"rating": "up"})
        export = http.get("/v1/feedback/export")
        monkeypatch.setattr(Responses, "add", explode)
        monkeypatch.setattr(api.routes_chat, "_count", explode)
        body = {"model": "youju:a", "input": "How heavy?", "stream": True}
        response = http.post("/v1/responses", json=body).text
        messages = [{"role": "user", "content": "How heavy?"}]
        chat = http.post(
            "/v1/chat/completions", json={"model": "youju:a", "messages": messages, "stream": True}
        ).text

    assert len(export.text.splitlines()) == 1
    *_, last = response.strip().split("\n\n")
    assert last.startswith("event: response.failed\n")
    *_, error, done = chat.strip().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "server_error"
    assert done == "data: [DONE]"
    assert "hush" not in response + chat
