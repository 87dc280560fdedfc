"""Searches are done together: what one of them meets does not harm the others."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from served import Served, serving
from upload_bench import Bench

from api.batching import Found, Search, SearchBatcher
from api.errors import ApiError
from api.observing import Meters
from api.tracing import NoTracing
from rag.errors import StorageError
from rag.index.lexical import TantivyIndex
from rag.schema import Ranking
from rag.store.corpus import Store
from rag.store.store_files import StoreFiles
from rag.store.tables import DEFAULT_PROJECT
from rag.store.vector_stores import VectorStores

_WAVES, _CLIENTS = 3, 16  # together more than anyio's 40 threads


@pytest.fixture
def slow(served_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, Any]]:
    """A server with the store `a`, and an event without which no search ends."""
    may_end = threading.Event()
    search_store = SearchBatcher._search_store

    def wait(
        self: SearchBatcher, store: Store, searches: Sequence[Search]
    ) -> list[Found | Exception]:
        may_end.wait(60)
        return search_store(self, store, searches)

    monkeypatch.setattr(SearchBatcher, "_search_store", wait)
    with serving(served_home) as served, served.http() as http:
        http.post("/v1/vector_stores", json={"name": "a"}).raise_for_status()
        yield served, may_end
        may_end.set()


def test_clients_that_leave_during_a_slow_search_block_no_other(
    slow: tuple[Served, threading.Event],
) -> None:
    served, may_end = slow

    def ask_and_leave() -> None:
        timeout = httpx.Timeout(10, read=0.6)
        body = {"model": "youju:a", "input": "How heavy is it?"}
        with served.http() as http, contextlib.suppress(httpx.ReadTimeout):
            http.post("/v1/responses", json=body, timeout=timeout)

    for _ in range(_WAVES):
        clients = [threading.Thread(target=ask_and_leave) for _ in range(_CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    may_end.set()

    with served.http() as http:
        asked = http.post("/v1/responses", json={"model": "youju:a", "input": "How heavy?"})
    assert asked.status_code == 200


# -- one batch ---------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Iterator[Bench]:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    made = Bench(tmp_path / "home")
    yield made
    made.rag.db.close()


def _search(bench: Bench, *searches: Search) -> list[Found | Exception]:
    batcher = SearchBatcher(bench.rag, bench.opened, Meters(CollectorRegistry()), NoTracing())
    return batcher._search(searches)


async def _come_one_by_one(batcher: SearchBatcher, release: threading.Event) -> None:
    search = Search("p", "s", "How heavy?", 1)
    waiting = [asyncio.ensure_future(batcher.search(search))]
    for _ in range(5):
        await asyncio.sleep(0.002)
        waiting.append(asyncio.ensure_future(batcher.search(search)))
    await asyncio.sleep(0.1)
    release.set()
    await asyncio.gather(*waiting)


def test_searches_gather_while_one_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.batching.GATHER_S", 0.05)
    batcher = SearchBatcher(bench.rag, bench.opened, Meters(CollectorRegistry()), NoTracing())
    release, sizes = threading.Event(), []

    def search(searches: Sequence[Search]) -> list[Found | Exception]:
        sizes.append(len(searches))
        release.wait(10)
        return [Found([], {}, {})] * len(searches)

    monkeypatch.setattr(batcher, "_search", search)
    asyncio.run(_come_one_by_one(batcher, release))
    assert sizes == [1, 5]


def test_what_is_found_is_told_though_its_use_cannot_be_recorded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bench.store()
    file = bench.put(store, "The pump needs oil.")
    bench.drain()

    def locked(*_: object) -> None:
        raise StorageError("The database is locked.", do="Wait.")

    monkeypatch.setattr(VectorStores, "touch", locked)
    (found,) = _search(bench, Search(DEFAULT_PROJECT, store.id, "pump", 5))

    assert isinstance(found, Found)
    assert [hit.chunk.file_id for hit in found.hits] == [file]


def test_a_file_that_is_completed_during_a_search_passes_its_filter_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bench.store()
    mine = bench.put(store, "The pump needs oil.")
    bench.drain()
    attributes = StoreFiles.attributes
    others: list[str] = []

    def meanwhile(self: StoreFiles, store_id: str, file_ids: Any = None) -> dict[str, Any]:
        found = attributes(self, store_id, file_ids)
        if not others:  # between the filter and the search
            others.append(bench.put(store, "The pump of another owner needs oil."))
            bench.drain()
        return found

    bench.listed.set_attributes(store.id, mine, {"owner": "me"})
    monkeypatch.setattr(StoreFiles, "attributes", meanwhile)
    search = Search(DEFAULT_PROJECT, store.id, "pump", 5, lambda held: held.get("owner") == "me")
    (found,) = _search(bench, search)

    assert isinstance(found, Found)
    assert others
    assert {hit.chunk.file_id for hit in found.hits} == {mine}


def test_a_search_in_a_store_that_goes_meanwhile_tells_that_it_is_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = bench.store(), bench.store("other")
    for each in (store, other):
        bench.put(each, "The pump needs oil.")
    bench.drain()
    search_words = TantivyIndex.search

    def meanwhile(self: TantivyIndex, *asked: Any, **more: Any) -> list[Ranking]:
        if self is opened:  # deleted, and its indexes wiped, in the middle of the search
            VectorStores(bench.rag.db).delete(store.id)
            shutil.rmtree(bench.rag.settings.indexes_folder / store.id)
        return search_words(self, *asked, **more)

    search = Search(DEFAULT_PROJECT, store.id, "pump", 5)
    opened = bench.opened.get(store).lexical.refresh()
    monkeypatch.setattr(TantivyIndex, "search", meanwhile)
    gone, found = _search(bench, search, replace(search, store_id=other.id))

    assert isinstance(gone, ApiError)
    assert (gone.status, gone.code) == (404, "vector_store_not_found")
    assert isinstance(found, Found)
    assert len(found.hits) == 1
