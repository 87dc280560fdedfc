"""Whatever is sent, the answer has the one shape, and tells nothing that it should not."""

from __future__ import annotations

import inspect
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import Served, serving
from served_process import serve_process

import api.server
from api import errors as api_errors
from api.schemas import ErrorShown
from rag import errors

JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=b"}


def shown(answer: httpx.Response, status: int, code: str = "") -> dict[str, Any]:
    """Check an error's shape; return what is in it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = ErrorShown.model_validate(answer.json()).error.model_dump()
    assert error["message"] and "Traceback" not in error["message"]
    assert not code or error["code"] == code, error
    return error


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with served.http() as client:
        yield client


@pytest.fixture(scope="module")
def store(served: Served) -> str:
    """The id of a store with one file, named "attacked"."""
    client = served.client()
    file = client.files.create(
        file=("pump.md", b"# Pump\n\nThe D40 weighs 185 kg."), purpose="user_data"
    )
    made = client.vector_stores.create(name="attacked")
    client.vector_stores.files.create_and_poll(
        file.id, vector_store_id=made.id, attributes={"n": 10**300}, poll_interval_ms=50
    )
    return made.id


# -- the table ---------------------------------------------------------------------------------


def test_every_error_has_a_meaning() -> None:
    ours = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.YoujuError)
    }
    assert set(api_errors.MEANINGS) == ours


@pytest.mark.parametrize("kind", api_errors.MEANINGS, ids=lambda kind: kind.__name__)
def test_errors_inside_the_server_are_told_in_general_words(kind: type[errors.YoujuError]) -> None:
    meaning = api_errors.MEANINGS[kind]
    assert 400 <= meaning.status < 600
    if meaning.status >= 500 or kind in (errors.UnknownStore, errors.UnknownFile):
        assert meaning.message
    if meaning.status in (429, 503):
        assert meaning.retry_after > 0


# -- the shape ---------------------------------------------------------------------------------


def test_unknown_addresses_and_methods(http: httpx.Client) -> None:
    for path in ("/", "/v1", "/v1/nothing", "/v2/files", "/v1/files/", "/docs/static/../../x"):
        shown(http.get(path), 404, "unknown_url")
    for path in ("/docs/static/%2e%2e/%2e%2e/etc/passwd", "/docs/static/nothing", "/v1/a%00b"):
        shown(http.get(path), 404, "unknown_url")
    for method, path in (("PUT", "/v1/files"), ("DELETE", "/v1/models"), ("GET", "/v1/embeddings")):
        answer = http.request(method, path)
        shown(answer, 405, "method_not_allowed")
        assert answer.headers["allow"]
    shown(http.request("BREW", "/v1/files"), 405)


def test_unknown_fields_are_named(http: httpx.Client, store: str) -> None:
    bodies: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/vector_stores", {"naem": "x"}, "naem"),
        ("/v1/responses", {"model": "youju", "input": "x", "temprature": 1}, "temprature"),
        (f"/v1/vector_stores/{store}/search", {"query": "x", "top_k": 3}, "top_k"),
        (
            f"/v1/vector_stores/{store}/search",
            {"query": "x", "ranking_options": {"x": 1}},
            "ranking_options.x",
        ),
    ]
    for path, body, name in bodies:
        error = shown(http.post(path, json=body), 400, "unknown_parameter")
        assert error["param"] == name and name in error["message"]
    error = shown(http.post("/v1/responses", json={"input": "x"}), 400, "missing_parameter")
    assert error["param"] == "model"
    assert shown(http.get("/v1/files?limit=0"), 400)["param"] == "limit"


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "like", "key": "a", "value": "b"},
        {"type": "eq", "key": "a"},
        {"type": "and", "filters": []},
        {"type": "in", "key": "a", "value": ["x"] * 2000},
        {"type": "eq", "key": "a", "value": 10**400},
        {"type": "eq", "key": "\ud800", "value": "\ud800", "\ud800": 1},
        {},
    ],
    ids=lambda bad: str(sorted(ascii(name) for name in bad)),
)
def test_a_bad_filter_is_named(http: httpx.Client, store: str, bad: dict[str, Any]) -> None:
    body = json.dumps({"query": "weigh", "filters": bad})
    answer = http.post(f"/v1/vector_stores/{store}/search", content=body, headers=JSON)
    error = shown(answer, 400, "invalid_parameter" if "\ud800" in bad else "invalid_filter")
    assert "filter" in error["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "missing_parameter"),
        (b"{", "invalid_json"),
        (b"nope", "invalid_json"),
        (b"\xff\xfe{}", ""),
        (b"[" * 100_000, ""),
        (b'{"metadata":' * 50_000 + b"1" + b"}" * 50_000, ""),
        (b'{"name": ' + b"9" * 100_000 + b"}", ""),
        (b'{"expires_after": {"anchor": "last_active_at", "days": 1e999}}', "invalid_parameter"),
        (b'{"metadata": {"a": NaN}}', "invalid_parameter"),
        (b'{"name": "x", "name": 7}', "invalid_parameter"),
        (b'{"\\ud800": 1}', "invalid_parameter"),
        (b'{"' + b"x" * 100_000 + b'": 1}', "unknown_parameter"),
        (b'"text"', "invalid_parameter"),
        (b"[]", "invalid_parameter"),
        (b"null", "invalid_parameter"),
    ],
    ids=range(15),
)
def test_bodies_that_are_no_request(http: httpx.Client, body: bytes, code: str) -> None:
    answer = http.post("/v1/vector_stores", content=body, headers=JSON)
    error = shown(answer, 400, code)
    assert len(error["message"]) < 500 and len(error["param"] or "") <= 200


def test_media_types(http: httpx.Client) -> None:
    for path in ("/v1/files", "/v1/responses", "/v1/vector_stores", "/v1/embeddings"):
        answer = http.post(path, content=b"a=b", headers={"content-type": "text/csv"})
        shown(answer, 415, "unsupported_media_type")
    bad = http.post("/v1/files", files={"file": ("a.exe", b"MZ")}, data={"purpose": "user_data"})
    shown(bad, 415, "unsupported_file_type")


def _texts(text: str, store: str) -> list[tuple[str, dict[str, Any]]]:
    """Return requests that have a text in every field that takes one."""
    ask = {"model": "youju:attacked", "input": "x"}
    search = f"/v1/vector_stores/{store}/search"
    condition = {"name": "n", "comparison_operator": "is", "value": text}
    dify = {"knowledge_id": store, "query": "x", "retrieval_setting": {"top_k": 1}}
    chat = {"model": "youju:attacked", "messages": [{"role": "user", "content": "x"}]}
    upload = {"bytes": 1, "filename": "a.md", "mime_type": "x", "purpose": "user_data"}
    return [
        ("/v1/vector_stores", {"name": text}),
        ("/v1/vector_stores", {"description": text}),
        ("/v1/vector_stores", {"metadata": {"a": text}}),
        ("/v1/vector_stores", {"metadata": {text: "a"}}),
        ("/v1/vector_stores", {"file_ids": [text]}),
        ("/v1/uploads", {**upload, "filename": text + ".md"}),
        ("/v1/uploads", {**upload, "mime_type": text}),
        (f"/v1/vector_stores/{store}/files", {"file_id": text}),
        (f"/v1/vector_stores/{store}/files", {"file_id": "x", "attributes": {text: text}}),
        (search, {"query": text}),
        (search, {"query": ["x", text]}),
        (search, {"query": "x", "filters": {"type": "eq", "key": text, "value": text}}),
        (search, {"query": "x", "filters": {"type": text}}),
        (search, {"query": "x", "filters": {"type": "eq", "key": "a", "value": 1, text: 1}}),
        ("/v1/responses", {**ask, "model": text}),
        ("/v1/responses", {**ask, "model": "youju:" + text}),
        ("/v1/responses", {**ask, "input": text}),
        ("/v1/responses", {**ask, "input": [{"role": "user", "content": text}]}),
        ("/v1/responses", {**ask, "input": [{"role": text, "content": "x"}]}),
        ("/v1/responses", {**ask, "instructions": text}),
        ("/v1/responses", {**ask, "previous_response_id": text}),
        ("/v1/responses", {**ask, "metadata": {"a": text}}),
        ("/v1/responses", {**ask, "reasoning": {text: text}}),
        ("/v1/responses", {**ask, "user": text}),
        ("/v1/responses", {**ask, text: text}),
        ("/v1/chat/completions", {**chat, "model": text}),
        ("/v1/chat/completions", {**chat, "messages": [{"role": "user", "content": text}]}),
        ("/v1/chat/completions", {**chat, "stop": [text]}),
        ("/v1/chat/completions", {**chat, "stream": True, "reasoning_effort": text}),
        ("/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": text}),
        ("/v1/embeddings", {"model": text, "input": "x"}),
        ("/v1/responses/x/feedback", {"rating": "up", "comment": text}),
        ("/retrieval", {**dify, "query": text}),
        ("/retrieval", {**dify, "knowledge_id": text}),
        ("/retrieval", {**dify, "metadata_condition": {"conditions": [condition]}}),
    ]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\0", "a\0b"], ids=ascii)
def test_half_characters_and_nul_in_every_text(http: httpx.Client, store: str, text: str) -> None:
    for path, body in _texts(text, store):
        answer = http.post(path, content=json.dumps(body), headers=JSON)
        assert answer.status_code < 500, (path, ascii(body), answer.text)
        if answer.status_code >= 400 and path != "/retrieval":
            shown(answer, answer.status_code)


@pytest.mark.parametrize("text", ["‮txt.exe", "\x1b[2J", "\U0010ffff", "é" * 64], ids=ascii)
def test_odd_texts_in_every_field(http: httpx.Client, store: str, text: str) -> None:
    for path, body in _texts(text, store):
        assert http.post(path, json=body).status_code < 500, (path, body)


@pytest.mark.parametrize("number", [10**400, -(10**400), 1e308, 2**63, 10**4200])
def test_huge_numbers(http: httpx.Client, store: str, number: float) -> None:
    search = f"/v1/vector_stores/{store}/search"
    test = {"name": "n", "comparison_operator": ">", "value": number}
    bodies: list[tuple[str, dict[str, Any]]] = [
        (search, {"query": "weigh", "max_num_results": number}),
        (search, {"query": "weigh", "filters": {"type": "gt", "key": "n", "value": number}}),
        (f"/v1/vector_stores/{store}/files", {"file_id": "x", "attributes": {"n": number}}),
        ("/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": "x", "dimensions": number}),
        ("/v1/uploads", {"bytes": number, "filename": "a.md", "mime_type": "x", "purpose": "user_data"}),
        (
            "/retrieval",
            {
                "knowledge_id": store, "query": "weigh", "retrieval_setting": {"top_k": 1},
                "metadata_condition": {"conditions": [test]},
            },
        ),
    ]  # fmt: skip
    for path, body in bodies:
        answer = http.post(path, json=body)
        assert answer.status_code < 500, (path, answer.text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/v1/responses", "/v1/chat/completions", "/v1/vector_stores"]),
    name=st.sampled_from(
        ["model", "input", "messages", "tools", "metadata", "file_ids", "expires_after", "text"]
    ),
    value=json_values,
)
def test_anything_in_any_field(http: httpx.Client, path: str, name: str, value: Any) -> None:
    body = {"model": "youju:none", "input": "x"} if path == "/v1/responses" else {}
    answer = http.post(path, content=json.dumps({**body, name: value}), headers=JSON)
    if answer.status_code != 200:
        shown(answer, answer.status_code)
    assert answer.status_code < 500


# -- too large ---------------------------------------------------------------------------------


def test_too_large(tmp_path: Path, converted_models: Path) -> None:
    (tmp_path / "models").symlink_to(converted_models, target_is_directory=True)
    with serving(tmp_path, max_body_kib=4, max_file_mib=0.25) as served, served.http() as http:
        big = b'{"name": "' + b"x" * 5000 + b'"}'
        shown(http.post("/v1/vector_stores", content=big, headers=JSON), 413, "body_too_large")
        pieces = (big[at : at + 100] for at in range(0, len(big), 100))  # chunked
        shown(http.post("/v1/vector_stores", content=pieces, headers=JSON), 413, "body_too_large")
        for size in (270_000, 3_000_000):
            files = {"file": ("a.md", b"x" * size)}
            answer = http.post("/v1/files", files=files, data={"purpose": "user_data"})
            shown(answer, 413)
        body = b"--b\r\ncontent-disposition: form-data; name=file; filename=a.md\r\n\r\n"
        answer = http.post(
            "/v1/files", content=iter([body, *[b"x" * 50_000] * 10]), headers=FORM
        )
        shown(answer, 413)
        _until(lambda: not list((tmp_path / "blobs/incoming").glob("*")))
        for length in ("99999999999999999999999", "-1", "1e3"):
            assert _raw(
                served,
                f"POST /v1/vector_stores HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}"
                "\r\ncontent-type: application/json\r\n\r\n{}",
            ).startswith(b"HTTP/1.1 4")
        assert http.get("/v1/files").status_code == 200


# -- forms -------------------------------------------------------------------------------------

_FILE = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.md"\r\n\r\ntext\r\n'
_FIELD = b'--b\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n'
_PURPOSE = _FIELD % (b"purpose", b"user_data")
_END = b"--b--\r\n"


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("multipart/form-data", _FILE + _PURPOSE + _END, 415),
        ("multipart/form-data; boundary=", _FILE + _PURPOSE + _END, 415),
        ("multipart/form-data; boundary=" + "b" * 300, _FILE + _END, 415),
        ("multipart/form-data; boundary=é", _FILE + _END, 400),
        ("multipart/form-data; boundary=other", _FILE + _PURPOSE + _END, 400),
        (FORM["content-type"], b"", 400),
        (FORM["content-type"], _FILE + _PURPOSE, 400),
        (FORM["content-type"], _FILE[:60], 400),
        (FORM["content-type"], _PURPOSE + _END, 400),
        (FORM["content-type"], _FILE + _END, 400),
        (FORM["content-type"], _FILE + _FILE + _PURPOSE + _END, 400),
        (FORM["content-type"], b"--b\r\nx: " + b"y" * 100_000 + b"\r\n\r\n" + _END, 400),
        (FORM["content-type"], b"--b\r\n" + b"x: y\r\n" * 10_000 + b"\r\n" + _END, 400),
        (FORM["content-type"], b"".join(_FIELD % (b"%d" % n, b"x") for n in range(99)) + _END, 400),
        (FORM["content-type"], (_FIELD % (b"a", b"x")) * 5000 + _FILE + _PURPOSE + _END, 400),
        (FORM["content-type"], _FIELD % (b"purpose", b"x" * 100_000) + _END, 400),
        (FORM["content-type"], _FIELD % (b"purpose", b"\xff\x00") + _FILE + _END, 400),
        (FORM["content-type"], _FIELD % (b"\xed\xa0\x80", b"x") + _FILE + _PURPOSE + _END, 400),
        (FORM["content-type"], b"--b\r\n\r\n\r\n" + _END, 400),
    ],
    ids=range(19),
)
def test_malformed_forms(
    http: httpx.Client, served: Served, content_type: str, body: bytes, status: int
) -> None:
    headers = {"content-type": content_type.encode("latin-1")}
    shown(http.post("/v1/files", content=body, headers=headers), status)  # type: ignore[arg-type]
    _until(lambda: not list((served.home / "blobs/incoming").glob("*")))


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("../../etc/passwd.md", "passwd.md"),
        ("/etc/x.md", "x.md"),
        ("..\\..\\windows\\x.md", "x.md"),
        ("a\0b.md", "ab.md"),
        ("\xff\xfe.md", None),
        ("a%0d%0aset-cookie: x.md", None),
        ("年报 “2024”.md", "年报 “2024”.md"),
        ("a%0d%0a.md", None),
        ("‮dm.txe.md", None),
        (".a..md", ".a..md"),
    ],
    ids=ascii,
)
def test_names_of_files(http: httpx.Client, given_name: str, kept: str | None) -> None:
    named = b'filename="%s"' % given_name.replace("\\", "\\\\").encode()
    form = _FILE.replace(b'filename="a.md"', named) + _PURPOSE + _END
    made = http.post("/v1/files", content=form, headers=FORM).json()
    assert "/" not in made["filename"] and made["filename"].isprintable()
    assert kept is None or made["filename"] == kept
    answer = http.get(f"/v1/files/{made['id']}/content")
    assert answer.content == b"text"
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''")
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("name", ["", "..", ".", "/", "a" * 300 + ".md", "\r\n"], ids=ascii)
def test_names_that_are_none(http: httpx.Client, name: str) -> None:
    body = b"--b\r\ncontent-disposition: form-data; name=file; filename*=UTF-8''"
    body += "".join(f"%{byte:02x}" for byte in name.encode()).encode() + b"\r\n\r\nx\r\n"
    shown(http.post("/v1/files", content=body + _PURPOSE + _END, headers=FORM), 400)


def test_ranges_of_a_download(http: httpx.Client) -> None:
    files = {"file": ("a.md", b"0123456789")}
    made = http.post("/v1/files", files=files, data={"purpose": "user_data"}).json()
    path = f"/v1/files/{made['id']}/content"
    for given_range, held in (("0-1", b"01"), ("8-", b"89"), ("-3", b"789"), ("-99", b"0123456789")):
        answer = http.get(path, headers={"range": f"bytes={given_range}"})
        assert answer.status_code == 206 and answer.content == held
    for bad in ("bytes=10-", "bytes=5-2", "bytes=-", "bytes=-0", "lines=1-2", "bytes=0-1,4-5", "x"):
        answer = http.get(path, headers={"range": bad})
        shown(answer, 416, "range_not_satisfiable")
        assert answer.headers["content-range"] == "bytes */10"


# -- headers -----------------------------------------------------------------------------------


def test_request_ids(served: Served, http: httpx.Client) -> None:
    assert http.get("/livez", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    for bad in ("a b", "a" * 65, "<script>", 'x", "level": "x', "é"):
        sent = [(b"x-request-id", bad.encode())]
        answer = http.get("/livez", headers=sent)
        assert answer.headers["x-request-id"].startswith("req_")
    raw = _raw(served, "GET /livez HTTP/1.1\r\nhost: localhost\r\nx-request-id: a\n\tb: c\r\n\r\n")
    assert b"\n\tb" not in raw and b"\nb: c" not in raw


# -- slow, and gone ----------------------------------------------------------------------------


def _connect(served: Served) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def _raw(served: Served, text: str) -> bytes:
    """Send bytes; return what comes until the server closes or is silent for a second."""
    with _connect(served) as connection:
        connection.sendall(text.encode("latin-1"))
        connection.settimeout(1)
        return _rest(connection)


def _rest(connection: socket.socket) -> bytes:
    got = b""
    try:
        while data := connection.recv(65536):
            got += data
    except TimeoutError:
        pass
    return got


def _until(holds: Callable[[], bool], timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


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
    assert answer.startswith(b"HTTP/1.1 408") and b"too_slow" in answer
    assert time.monotonic() - begin < 5


def test_a_body_that_comes_byte_by_byte(hasty: Served) -> None:
    with _connect(hasty) as connection:
        connection.sendall((_POST + "content-length: 1000\r\n\r\n").encode())
        begin = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT012  which byte is too late is not known
            while time.monotonic() - begin < 10:
                connection.sendall(b" ")
                time.sleep(0.1)
        assert time.monotonic() - begin < 5
    _until(lambda: _running(hasty) == 0)


def _raw_all(served: Served, text: str) -> bytes:
    with _connect(served) as connection:
        connection.sendall(text.encode("latin-1"))
        return _rest(connection)


@pytest.mark.parametrize("first", ["", "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"])
def test_headers_that_do_not_come(hasty: Served, first: str) -> None:
    with _connect(hasty) as connection:
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
        with _connect(hasty) as connection:
            connection.sendall(head.encode() + _FILE[:-2] + b"x" * 5000)
            time.sleep(0.05)
    _until(lambda: _running(hasty) == 0)
    _until(lambda: not list((hasty.home / "blobs/incoming").glob("*")))
    with hasty.http() as http:
        assert http.get("/v1/files").json()["data"] == []


def test_what_is_no_http(hasty: Served) -> None:
    for text in ("\r\n\r\n\r\n", "GET\r\n\r\n", "\x16\x03\x01\x02" * 50, "GET / HTTP/1.1\r\n" + "a" * 99_999):
        assert not _raw_all(hasty, text) or b"400" in _raw_all(hasty, text)
    smuggled = _POST + "content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /livez HTTP/1.1\r\n"
    assert _raw_all(hasty, smuggled + "host: localhost\r\n\r\n").count(b'"status":"ok"') <= 1
    with hasty.http() as http:
        assert http.get("/livez").status_code == 200


# -- faults of the server ----------------------------------------------------------------------


def test_an_unexpected_fault(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert answer.headers["retry-after"] and str(served.home) not in json.dumps(error)
    assert http.delete(f"/v1/files/{made['id']}").status_code == 200


def test_a_database_replaced_by_garbage(served_home: Path) -> None:
    with serving(served_home) as served, served.http() as http:
        assert http.get("/v1/files").status_code == 200
        good = {path: path.read_bytes() for path in served_home.glob("youju.db*")}
        for path in good:
            path.write_bytes(os.urandom(20_000))
        for method, path in (("GET", "/v1/files"), ("POST", "/v1/vector_stores")):
            answer = http.request(method, path, json={} if method == "POST" else None)
            error = shown(answer, 503, "storage_unavailable")
            assert int(answer.headers["retry-after"]) > 0
            assert str(served_home) not in json.dumps(error)
        assert http.get("/livez").status_code == 200
        ready = http.get("/readyz")
        assert ready.status_code == 503 and "database" in ready.json()["waiting"]


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
        bad = http.post("/v1/files", files={"file": ("b.pdf", b"%PDF-1.4 zebrasecret")}, data={"purpose": "user_data"}).json()
        http.post(f"/v1/vector_stores/{store}/files", json={"file_id": bad["id"]})
        where = f"/v1/vector_stores/{store}/files?filter=in_progress"
        _until(lambda: not http.get(where).json()["data"], 30)
        texts = []
        for question in ("What does the zebrasecret weigh?", "zebrasecret" * 1000, "\0zebrasecret"):
            for path, body in _texts(question, store):
                texts.append(http.post(path, content=json.dumps(body), headers=JSON).text)
        for path in served_home.glob("youju.db*"):
            path.write_bytes(b"garbage" * 1000)
        for path, body in _texts("zebrasecret", store):
            answer = http.post(path, content=json.dumps(body), headers=JSON)
            texts.append(answer.text)
        assert http.get("/v1/files").status_code == 503
        assert not [text for text in texts if str(served_home) in text or "site-packages" in text]
        log = served.log
        assert key not in log and key[9:30] not in log
        assert "zebrasecret" not in log
        assert all(json.loads(line) for line in log.splitlines())
