"""The key, and how often it asks, are looked at before a byte of a body is read."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, serving
from wire import connect, until

from rag.store.database import Database
from rag.store.projects import Keys

PATHS = ("/v1/responses", "/v1/vector_stores", "/v1/embeddings", "/v1/files", "/retrieval")
PER_MINUTE = 6


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory, converted_models: Path) -> Iterator[list[str]]:
    """Two keys, after the address of their server, whose clients may ask six times a minute."""
    home = tmp_path_factory.mktemp("closed")
    (home / "models").symlink_to(converted_models, target_is_directory=True)
    db = Database(f"sqlite:///{home / 'youju.db'}")
    made = [Keys(db).create(name)[1] for name in "ab"]
    db.close()
    with serving(home, rate_limit=PER_MINUTE) as served:
        yield [served.url, *made]


def _at_once(served: Served, path: str, key: str) -> bytes:
    """Send the headers of a request, none of its body; return what is said within two seconds."""
    auth = f"authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{auth}content-type: application/json\r\n"
        "content-length: 1000\r\n\r\n{"
    )
    with connect(served) as connection:
        connection.sendall(head.encode())
        return _said(connection)


def _said(connection: socket.socket) -> bytes:
    connection.settimeout(2)
    got = b""
    try:
        while not got.endswith(b"}"):
            got += connection.recv(65536)
    except TimeoutError:
        pass
    return got


@pytest.mark.parametrize("path", PATHS)
def test_without_a_valid_key_no_body_is_waited_for(keys: list[str], path: str) -> None:
    served = Served(keys[0], Path(), "")
    for key in ("", "sk-youju-" + "x" * 43):
        got = _at_once(served, path, key)
        status = b"403" if path == "/retrieval" else b"401"
        assert got.startswith(b"HTTP/1.1 " + status), got
        assert b"API key" in got


def test_what_is_refused_is_counted_under_its_route(keys: list[str]) -> None:
    served = Served(keys[0], Path(), "")
    _at_once(served, "/v1/vector_stores/vs_1/search", "")
    line = 'route="/v1/vector_stores/{store_id}/search",status="401"'
    with served.http() as http:
        until(lambda: line in http.get("/metrics").text)


def test_each_request_is_counted_once_and_one_too_many_is_refused_at_once(
    keys: list[str],
) -> None:
    served = Served(keys[0], Path(), "")
    with served.http(keys[1]) as http:
        for _ in range(PER_MINUTE):
            assert http.post("/v1/vector_stores", json={}).status_code == 200
    got = _at_once(served, "/v1/vector_stores", keys[1])
    assert got.startswith(b"HTTP/1.1 429"), got
    assert b"retry-after" in got
    with served.http(keys[2]) as http:
        assert http.post("/v1/vector_stores", json={}).status_code == 200


def test_with_a_key_the_body_is_waited_for(keys: list[str]) -> None:
    begin = time.monotonic()
    assert _at_once(Served(keys[0], Path(), ""), "/v1/embeddings", keys[2]) == b""
    assert time.monotonic() - begin > 1


def test_a_page_of_another_site_is_refused_at_once(served: Served) -> None:
    head = (
        "POST /v1/vector_stores HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.example\r\n"
        "content-type: application/json\r\ncontent-length: 1000\r\n\r\n{"
    )
    with connect(served) as connection:
        connection.sendall(head.encode())
        assert _said(connection).startswith(b"HTTP/1.1 403")
