"""What happens in the middle of a request: objects that go, stores that live again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from upload_bench import Bench

from api.observing import Meters
from api.routes_files import forget_file
from api.service import Service
from api.tracing import NoTracing
from api.upkeep import empty_store
from rag.store.answers import NewResponse
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
