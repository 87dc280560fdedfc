"""Searches are done together: what one of them meets does not harm the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import Served, serving

from api.batching import Found, Search, SearchBatcher
from rag.store.corpus import Store

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
        with pytest.raises(httpx.ReadTimeout), served.http() as http:
            timeout = httpx.Timeout(10, read=0.6)
            body = {"model": "youju:a", "input": "How heavy is it?"}
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
