"""Whatever is sent, the answer has the one shape, and tells nothing that it should not."""

from __future__ import annotations

import gzip
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import Served, serving
from wire import END, FIELD, FILE, FORM, JSON, PURPOSE, raw, shown, texts_in, until

from api import errors as api_errors
from rag import errors


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
    assert "'/v1/nothing'" in shown(http.get("/v1/nothing"), 404)["message"]
    for path in ("/docs/static/%2e%2e/%2e%2e/etc/passwd", "/docs/static/nothing"):
        shown(http.get(path), 404, "unknown_url")
    shown(http.get("/v1/a%00b"), 400, "invalid_url")
    for method, path in (("PUT", "/v1/files"), ("DELETE", "/v1/models"), ("GET", "/v1/embeddings")):
        answer = http.request(method, path)
        told = shown(answer, 405, "method_not_allowed")["message"]
        assert answer.headers["allow"] in told
    shown(http.request("BREW", "/v1/files"), 400, "invalid_http")


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
        assert error["param"] == name
        assert name in error["message"]
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
        (b"\xff\xfe{}", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"metadata":' * 50_000 + b"1" + b"}" * 50_000, "invalid_json"),
        (b'{"name": ' + b"9" * 100_000 + b"}", "invalid_json"),
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
    assert len(error["message"]) < 500
    assert len(error["param"] or "") <= 200


_LIMITED = "expected a text of at most 512 characters, a number or a boolean"
_TALK = {"model": "youju", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("/v1/vector_stores/{}/files", {"attributes": {"a": "x" * 513}}, "attributes.a", _LIMITED),
        ("/v1/vector_stores/{}/files", {"attributes": {"a": None}}, "attributes.a", _LIMITED),
        ("/v1/vector_stores/{}/files", {"attributes": {"a": "\0"}}, "attributes.a", "NUL"),
        (
            "/v1/vector_stores/{}/files",
            {"attributes": {"k" * 65: 1}},
            f"attributes.{'k' * 65}",
            "a text of at most 64 characters, got 65",
        ),
        ("/v1/responses", {"input": []}, "input", "at least 1 item, got 0"),
        ("/v1/responses", {"input": 5}, "input", "a text or a list, got a number"),
        ("/v1/vector_stores/{}/search", {"query": []}, "query", "at least 1 item, got 0"),
        ("/v1/vector_stores/{}/search", {"query": [""]}, "query.0", "at least 1 character, got 0"),
        ("/v1/vector_stores/{}/search", {"query": ["x"] * 17}, "query", "at most 16 items, got 17"),
        ("/v1/embeddings", {"input": ["x"] * 2049}, "input", "at most 2,048 items, got 2,049"),
        ("/v1/chat/completions", {**_TALK, "stop": ["x"]}, "stop", "not supported"),
        ("/v1/chat/completions", {**_TALK, "stop": "x"}, "stop", "not supported"),
        ("/v1/chat/completions", {**_TALK, "tools": [{}]}, "tools", "not supported"),
        ("/v1/responses", {"input": "x", "background": True}, "background", "not supported"),
        (
            "/v1/responses",
            {"input": "x", "tools": [{"type": "file_search", "vector_store_ids": 5, "filters": 5}]},
            "tools.0.vector_store_ids",
            "expected a list, got a number",
        ),
        ("/v1/vector_stores", [], None, "expected a JSON object, got a list"),
    ],
    ids=range(16),
)
def test_the_limit_that_was_broken_is_named(
    http: httpx.Client, store: str, path: str, body: Any, param: str | None, message: str
) -> None:
    if isinstance(body, dict):
        more = {"file_id": "x"} if path.endswith("/files") else {"model": "youju"}
        body = body if path.endswith("/search") else {**more, **body}
    error = shown(http.post(path.format(store), json=body), 400, "invalid_parameter")
    assert error["param"] == param
    assert message in error["message"]


def test_a_body_that_cannot_be_read_is_told_why(http: httpx.Client) -> None:
    def error(body: bytes, status: int, code: str, **more: str) -> str:
        answer = http.post("/v1/vector_stores", content=body, headers={**JSON, **more})
        return str(shown(answer, status, code)["message"])

    assert "UTF-8" in error('{"name": "手册"}'.encode("gbk"), 400, "invalid_json")
    assert "nested" in error(b"[" * 100_000, 400, "invalid_json")
    packed = gzip.compress(b"{}")
    assert "'gzip'" in error(packed, 415, "unsupported_media_type", **{"content-encoding": "gzip"})


def test_the_field_at_fault_is_named(http: httpx.Client, store: str) -> None:
    tool = {"type": "file_search", "vector_store_ids": ["vs_none"]}
    long = "x" * 5000
    talk = {"model": "youju:attacked", "messages": [{"role": "user", "content": long}]}
    cases: list[tuple[str, dict[str, Any], int, str]] = [
        (f"/v1/vector_stores/{store}/search", {"query": "x", "filters": {}}, 400, "filters"),
        (f"/v1/vector_stores/{store}/search", {"query": long}, 400, "query"),
        ("/v1/responses", {"model": "youju:attacked", "input": long}, 400, "input"),
        ("/v1/chat/completions", talk, 400, "messages"),
        (
            "/v1/responses",
            {"model": "youju", "input": "x", "tools": [tool]},
            404,
            "tools.0.vector_store_ids",
        ),
    ]
    for path, body, status, param in cases:
        assert shown(http.post(path, json=body), status)["param"] == param, path
    for name in ("after", "before"):
        answer = http.get(f"/v1/vector_stores?{name}=vs_none")
        assert shown(answer, 400, "invalid_cursor")["param"] == name


def test_the_store_that_the_settings_name_may_be_missing(served_home: Path) -> None:
    with serving(served_home) as served, served.http() as http:
        body = {"model": "youju", "input": "x"}
        error = shown(http.post("/v1/responses", json=body), 404, "vector_store_not_found")
    assert "no store named 'default'" in error["message"]
    assert "`store`" in error["message"]


def test_media_types(http: httpx.Client) -> None:
    for path in ("/v1/files", "/v1/responses", "/v1/vector_stores", "/v1/embeddings"):
        answer = http.post(path, content=b"a=b", headers={"content-type": "text/csv"})
        shown(answer, 415, "unsupported_media_type")
    bad = http.post("/v1/files", files={"file": ("a.exe", b"MZ")}, data={"purpose": "user_data"})
    shown(bad, 415, "unsupported_file_type")


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\0", "a\0b"], ids=ascii)
def test_half_characters_and_nul_in_every_text(http: httpx.Client, store: str, text: str) -> None:
    for path, body in texts_in(text, store):
        answer = http.post(path, content=json.dumps(body), headers=JSON)
        assert answer.status_code < 500, (path, ascii(body), answer.text)
        if answer.status_code >= 400 and path != "/retrieval":
            shown(answer, answer.status_code)


@pytest.mark.parametrize("text", ["‮txt.exe", "\x1b[2J", "\U0010ffff", "é" * 64], ids=ascii)
def test_odd_texts_in_every_field(http: httpx.Client, store: str, text: str) -> None:
    for path, body in texts_in(text, store):
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
        (
            "/v1/uploads",
            {"bytes": number, "filename": "a.md", "mime_type": "x", "purpose": "user_data"},
        ),
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
            error = shown(answer, 413, "file_too_large")
            assert "0.25 MiB" in error["message"]
        body = b"--b\r\ncontent-disposition: form-data; name=file; filename=a.md\r\n\r\n"
        answer = http.post("/v1/files", content=iter([body, *[b"x" * 50_000] * 10]), headers=FORM)
        shown(answer, 413)
        until(lambda: not list((tmp_path / "blobs/incoming").glob("*")))
        for length in ("99999999999999999999999", "-1", "1e3"):
            assert raw(
                served,
                f"POST /v1/vector_stores HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}"
                "\r\ncontent-type: application/json\r\n\r\n{}",
            ).startswith(b"HTTP/1.1 4")
        assert http.get("/v1/files").status_code == 200


# -- forms -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("multipart/form-data", FILE + PURPOSE + END, 415),
        ("multipart/form-data; boundary=", FILE + PURPOSE + END, 415),
        ("multipart/form-data; boundary=" + "b" * 300, FILE + END, 415),
        ("multipart/form-data; boundary=é", FILE + END, 400),
        ("multipart/form-data; boundary=other", FILE + PURPOSE + END, 400),
        (FORM["content-type"], b"", 400),
        (FORM["content-type"], FILE + PURPOSE, 400),
        (FORM["content-type"], FILE[:60], 400),
        (FORM["content-type"], PURPOSE + END, 400),
        (FORM["content-type"], FILE + END, 400),
        (FORM["content-type"], FILE + FILE + PURPOSE + END, 400),
        (FORM["content-type"], b"--b\r\nx: " + b"y" * 100_000 + b"\r\n\r\n" + END, 400),
        (FORM["content-type"], b"--b\r\n" + b"x: y\r\n" * 10_000 + b"\r\n" + END, 400),
        (FORM["content-type"], b"".join(FIELD % (b"%d" % n, b"x") for n in range(99)) + END, 400),
        (FORM["content-type"], (FIELD % (b"a", b"x")) * 5000 + FILE + PURPOSE + END, 400),
        (FORM["content-type"], FIELD % (b"purpose", b"x" * 100_000) + END, 400),
        (FORM["content-type"], FIELD % (b"purpose", b"\xff\x00") + FILE + END, 400),
        (FORM["content-type"], FIELD % (b"\xed\xa0\x80", b"x") + FILE + PURPOSE + END, 400),
        (FORM["content-type"], b"--b\r\n\r\n\r\n" + END, 400),
    ],
    ids=range(19),
)
def test_malformed_forms(
    http: httpx.Client, served: Served, content_type: str, body: bytes, status: int
) -> None:
    headers = {"content-type": content_type.encode("latin-1")}
    shown(http.post("/v1/files", content=body, headers=headers), status)  # type: ignore[arg-type]
    until(lambda: not list((served.home / "blobs/incoming").glob("*")))


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
    form = FILE.replace(b'filename="a.md"', named) + PURPOSE + END
    made = http.post("/v1/files", content=form, headers=FORM).json()
    assert "/" not in made["filename"]
    assert made["filename"].isprintable()
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
    status = 415 if name.isspace() else 400  # control characters are shown, and are no suffix
    shown(http.post("/v1/files", content=body + PURPOSE + END, headers=FORM), status)


def test_ranges_of_a_download(http: httpx.Client) -> None:
    files = {"file": ("a.md", b"0123456789")}
    made = http.post("/v1/files", files=files, data={"purpose": "user_data"}).json()
    path = f"/v1/files/{made['id']}/content"
    for given_range, held in (
        ("0-1", b"01"),
        ("8-", b"89"),
        ("-3", b"789"),
        ("-99", b"0123456789"),
    ):
        answer = http.get(path, headers={"range": f"bytes={given_range}"})
        assert answer.status_code == 206
        assert answer.content == held
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
    got = raw(served, "GET /livez HTTP/1.1\r\nhost: localhost\r\nx-request-id: a\n\tb: c\r\n\r\n")
    assert b"\n\tb" not in got
    assert b"\nb: c" not in got
