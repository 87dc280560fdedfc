"""Slow clients, clients that leave, faults of the server, and what the log tells."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import Served, serving
from served_process import serve_process
from wire import FILE, JSON, connect, rest, shown, texts_in, until

import api.server


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with served.http() as client:
        yield client


# -- slow, and gone ----------------------------------------------------------------------------


def _running(served: Served) -> float:
    with served.http() as http:
        for line in http.get("/metrics").text.splitlines():
            if line.startswith("youju_requests_running "):
                return float(line.split()[1]) - 1  # this one
    raise AssertionError("no such meter")


_POST = "POST /v1/vector_stores HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, converted_models: Path) -> Iterator[Served]:
    """A server that waits half a second for more of a request, and takes two at once."""
    home = tmp_path_factory.mktemp("hasty")
    (home / "models").symlink_to(converted_models, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api.server, "HEADERS_S", 0.5)
        with serving(home, request_timeout=0.5, max_requests=2) as served:
            yield served


def test_a_body_that_does_not_come(hasty: Served) -> None:
    begin = time.monotonic()
    answer = _raw_all(hasty, _POST + "content-length: 10\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"too_slow" in answer
    assert time.monotonic() - begin < 5


def test_a_body_that_comes_byte_by_byte(hasty: Served) -> None:
    with connect(hasty) as connection:
        connection.sendall((_POST + "content-length: 1000\r\n\r\n").encode())
        begin = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT012  which byte is too late is not known
            while time.monotonic() - begin < 10:
                connection.sendall(b" ")
                time.sleep(0.1)
        assert time.monotonic() - begin < 5
    until(lambda: _running(hasty) == 0)


def _raw_all(served: Served, text: str) -> bytes:
    with connect(served) as connection:
        connection.sendall(text.encode("latin-1"))
        return rest(connection)


@pytest.mark.parametrize("first", ["", "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"])
def test_headers_that_do_not_come(hasty: Served, first: str) -> None:
    with connect(hasty) as connection:
        if first:
            connection.sendall(first.encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        begin = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT012
            for letter in "GET /livez HTTP/1.1\r\nhost: local" + "h" * 1000:
                connection.sendall(letter.encode())
                time.sleep(0.05)
        assert time.monotonic() - begin < 5


def test_clients_that_leave_give_their_permits_back(hasty: Served) -> None:
    head = (
        "POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n"
        "content-type: multipart/form-data; boundary=b\r\n\r\n"
    )
    for _ in range(5):  # more than permits
        with connect(hasty) as connection:
            connection.sendall(head.encode() + FILE[:-2] + b"x" * 5000)
            time.sleep(0.05)
    until(lambda: _running(hasty) == 0)
    until(lambda: not list((hasty.home / "blobs/incoming").glob("*")))
    with hasty.http() as http:
        assert http.get("/v1/files").json()["data"] == []


def test_what_is_no_http(hasty: Served) -> None:
    for text in (
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "\x16\x03\x01\x02" * 50,
        "GET / HTTP/1.1\r\n" + "a" * 99_999,
    ):
        assert not _raw_all(hasty, text) or b"400" in _raw_all(hasty, text)
    smuggled = (
        _POST
        + "content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /livez HTTP/1.1\r\n"
    )
    assert _raw_all(hasty, smuggled + "host: localhost\r\n\r\n").count(b'"status":"ok"') <= 1
    with hasty.http() as http:
        assert http.get("/livez").status_code == 200


# -- faults of the server ----------------------------------------------------------------------


def test_an_unexpected_fault(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret /srv/path")

    monkeypatch.setattr("rag.store.files.Files.page", breaks)
    answer = http.get("/v1/files", headers={"x-request-id": "find-me"})
    error = shown(answer, 500, "server_error")
    assert error["message"] == "The server failed."
    assert answer.headers["x-request-id"] == "find-me"
    assert answer.headers["x-content-type-options"] == "nosniff"
    monkeypatch.undo()
    assert http.get("/v1/files").status_code == 200


def test_bytes_that_are_gone(http: httpx.Client, served: Served) -> None:
    files = {"file": ("a.md", b"soon gone")}
    made = http.post("/v1/files", files=files, data={"purpose": "user_data"}).json()
    (served.home / "blobs" / made["sha256"][:2] / made["sha256"]).unlink()
    answer = http.get(f"/v1/files/{made['id']}/content")
    error = shown(answer, 503, "storage_unavailable")
    assert answer.headers["retry-after"]
    assert str(served.home) not in json.dumps(error)
    assert http.delete(f"/v1/files/{made['id']}").status_code == 200


def test_a_database_replaced_by_garbage(served_home: Path) -> None:
    with serving(served_home) as served, served.http() as http:
        assert http.get("/v1/files").status_code == 200
        good = {path: path.read_bytes() for path in served_home.glob("youju.db*")}
        for path in good:
            path.write_bytes(os.urandom(20_000))
        for method, where in (("GET", "/v1/files"), ("POST", "/v1/vector_stores")):
            answer = http.request(method, where, json={} if method == "POST" else None)
            error = shown(answer, 503, "storage_unavailable")
            assert int(answer.headers["retry-after"]) > 0
            assert str(served_home) not in json.dumps(error)
        assert http.get("/livez").status_code == 200
        ready = http.get("/readyz")
        assert ready.status_code == 503
        assert "database" in ready.json()["waiting"]


def test_a_blob_folder_that_cannot_be_written(served_home: Path) -> None:
    (served_home / "blobs").write_text("a file where a folder should be")
    with serving(served_home) as served, served.http() as http:
        files = {"file": ("a.md", b"text")}
        answer = http.post("/v1/files", files=files, data={"purpose": "user_data"})
        error = shown(answer, 503, "storage_unavailable")
        assert str(served_home) not in json.dumps(error)
        (served_home / "blobs").unlink()
        assert http.post("/v1/files", files=files, data={"purpose": "user_data"}).status_code == 200


# -- what is logged ----------------------------------------------------------------------------


@pytest.mark.slow
def test_no_question_no_text_no_key_in_the_log(served_home: Path) -> None:
    from rag.store.database import Database
    from rag.store.projects import Keys

    db = Database(f"sqlite:///{served_home / 'youju.db'}")
    key = Keys(db).create("x")[1]
    db.close()
    with serve_process(served_home) as served, served.http(key) as http:
        files = {"file": ("plan.md", b"# Plan\n\nThe zebrasecret weighs 12 kg.")}
        made = http.post("/v1/files", files=files, data={"purpose": "user_data"}).json()
        store = http.post("/v1/vector_stores", json={"name": "plan"}).json()["id"]
        http.post(f"/v1/vector_stores/{store}/files", json={"file_id": made["id"]})
        bad = http.post(
            "/v1/files",
            files={"file": ("b.pdf", b"%PDF-1.4 zebrasecret")},
            data={"purpose": "user_data"},
        ).json()
        http.post(f"/v1/vector_stores/{store}/files", json={"file_id": bad["id"]})
        where = f"/v1/vector_stores/{store}/files?filter=in_progress"
        until(lambda: not http.get(where).json()["data"], 30)
        texts = []
        for question in ("What does the zebrasecret weigh?", "zebrasecret" * 1000, "\0zebrasecret"):
            for path, body in texts_in(question, store):
                texts.append(http.post(path, content=json.dumps(body), headers=JSON).text)
        for file in served_home.glob("youju.db*"):
            file.write_bytes(b"garbage" * 1000)
        for path, body in texts_in("zebrasecret", store):
            answer = http.post(path, content=json.dumps(body), headers=JSON)
            texts.append(answer.text)
        assert http.get("/v1/files").status_code == 503
        assert not [text for text in texts if str(served_home) in text or "site-packages" in text]
        log = served.log
        assert key not in log
        assert key[9:30] not in log
        assert "zebrasecret" not in log
        assert all(json.loads(line) for line in log.splitlines())
