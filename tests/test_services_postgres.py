"""`youju serve` with two processes on PostgreSQL: used, restarted under it, and not there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from command import Run, assert_one_line
from openai import OpenAI
from postgres import Cluster, cluster
from served_process import ServeProcess, serve_process

pytestmark = pytest.mark.services

PUMP = b"# Pump\n\nThe D40 weighs 185 kg and needs 230 V.\n"
VALVE = b"# Valve\n\nThe valve K7 opens at 12 bar.\n"


@pytest.fixture
def own() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture
def two(own: Cluster, served_home: Path) -> Iterator[ServeProcess]:
    url = own.new_url()
    with serve_process(served_home, "--workers", "2", database_url=url) as served:
        yield served


def _client(served: ServeProcess, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)


def _put(client: OpenAI, store: str, name: str, data: bytes) -> str:
    done = client.vector_stores.files.upload_and_poll(
        vector_store_id=store, file=(name, data), poll_interval_ms=50
    )
    assert done.status == "completed", done
    return done.id


def _found(served: ServeProcess, store: str, query: str, key: str = "none") -> list[str]:
    """Search over a connection of its own, which any of the processes may take."""
    with _client(served, key) as client:
        return [hit.filename for hit in client.vector_stores.search(store, query=query)]


def test_two_processes_share_a_database(
    two: ServeProcess, own: Cluster, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    with _client(two) as client:
        store = client.vector_stores.create(name="handbook").id
        pump = _put(client, store, "pump.md", PUMP)
        assert {tuple(_found(two, store, "weight of the D40")) for _ in range(12)} == {("pump.md",)}
        _put(client, store, "valve.md", VALVE)
        begin = time.monotonic()
        while any("valve.md" not in _found(two, store, "valve K7 bar") for _ in range(12)):
            assert time.monotonic() - begin < 2

        answer = client.responses.create(model="youju:handbook", input="What does the D40 weigh?")
        assert "185 kg" in answer.output_text
        more = client.responses.create(
            model="youju:handbook", input="And its voltage?", previous_response_id=answer.id
        )
        assert more.previous_response_id == answer.id

        monkeypatch.setenv("YOUJU_DATABASE_URL", own.url("youju_0"))
        key = run("keys", "create", "me").out.splitlines()[0]
        time.sleep(1.1)
        assert [_status(two, "none") for _ in range(6)] == [401] * 6
        assert [_status(two, key) for _ in range(6)] == [200] * 6

    with _client(two, key) as client:
        client.vector_stores.files.delete(pump, vector_store_id=store)
        client.files.delete(pump)
        for _ in range(12):
            assert "pump.md" not in _found(two, store, "weight of the D40", key)
        client.vector_stores.delete(store)
        assert list(client.vector_stores.list()) == []
    assert "Traceback" not in two.log
    assert two.stop() == 0


def _status(served: ServeProcess, key: str) -> int:
    with served.http(key) as http:
        return http.get("/v1/vector_stores").status_code


def test_a_database_that_is_restarted(two: ServeProcess, own: Cluster) -> None:
    with _client(two) as client:
        store = client.vector_stores.create(name="s").id
        _put(client, store, "pump.md", PUMP)
    own.control("stop", "-m", "fast")
    said: Counter[tuple[int, str]] = Counter()
    with two.http() as http:
        for method, path, body in [
            ("GET", "/v1/vector_stores", None),
            ("POST", f"/v1/vector_stores/{store}/search", {"query": "pump"}),
            ("POST", "/v1/vector_stores", {"name": "t"}),
            ("POST", "/v1/responses", {"model": "youju:s", "input": "What weighs 185 kg?"}),
        ] * 4:
            answer = http.request(method, path, json=body)
            said[answer.status_code, answer.json()["error"]["code"]] += 1
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert int(answer.headers["retry-after"]) > 0
        assert set(said) == {(503, "storage_unavailable")}
        assert http.get("/livez").status_code == 200
        assert http.get("/readyz").status_code == 503
    own.control("start")

    end = time.monotonic() + 5
    fine = 0
    while fine < 12:  # what is at work at that moment may still fail
        fine = fine + 1 if _status(two, "none") == 200 else 0
        assert time.monotonic() < end
    with _client(two) as client:
        assert _found(two, store, "pump weight") == ["pump.md"]
        begin = time.monotonic()
        _put(client, store, "valve.md", VALVE)  # by an ingestion that has gone on
        assert time.monotonic() - begin < 30
        assert "valve.md" in _found(two, store, "valve K7 bar")
    assert two.stop() == 0


def test_requests_while_the_database_restarts(two: ServeProcess, own: Cluster) -> None:
    with _client(two) as client:
        store = client.vector_stores.create(name="s").id
        _put(client, store, "pump.md", PUMP)
    said: Counter[int] = Counter()
    with httpx.Client(base_url=two.url, timeout=30) as http:
        for number in range(60):
            if number in (15, 35):
                own.control("restart", "-m", "fast" if number == 15 else "immediate")
            answer = http.post(f"/v1/vector_stores/{store}/search", json={"query": "pump"})
            said[answer.status_code] += 1
    assert set(said) <= {200, 503}
    assert said[200] > 50


def test_a_server_without_its_database_does_not_start(
    own: Cluster, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOUJU_DATABASE_URL", own.url("postgres"))
    own.control("stop", "-m", "fast")
    done = run("serve", "--port", "0", "--workers", "2")
    assert_one_line(done, 1, "cannot be reached: Connection refused. Check that it runs")
    assert "secret" not in done.err
