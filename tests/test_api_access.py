"""Who may ask what: without keys, with keys, with another project's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import Run, assert_one_line
from fastapi.routing import APIRoute
from postgres import NewDatabase
from served import Served, serving

from api.access import Doorman
from api.app import _ROUTERS
from rag.store.database import Database
from rag.store.projects import Keys

OPEN = {("GET", "/livez"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/docs")}
OPEN |= {("HEAD", "/livez"), ("HEAD", "/readyz")}
"""Routes that never need a key."""

QUESTION = {"model": "youju", "input": "x"}
STORE_TOOL = [{"type": "file_search", "vector_store_ids": ["{store}"]}]


@dataclass(frozen=True)
class Asks:
    """How a route is asked, and the least scope that it needs.

    Attributes:
        method, path: The route.
        needs: "read" or "write".
        body: JSON, with {ids} to be filled in.
        form: Whether it takes a form with a file instead.
        names: Whether it names an object of a project, so that another project's gives 404.
    """

    method: str
    path: str
    needs: str = "read"
    body: Any = None
    form: bool = False
    names: bool = True
    query: dict[str, str] = field(default_factory=dict)


_FILES, _STORES, _RESPONSES = "/v1/files", "/v1/vector_stores", "/v1/responses"
_STORE = _STORES + "/{store_id}"
_IN_STORE = _STORE + "/files/{file_id}"
_BATCH = _STORE + "/file_batches/{batch_id}"
_DIFY = {"knowledge_id": "{store}", "query": "x", "retrieval_setting": {"top_k": 1}}
ROUTES = [
    Asks("POST", _FILES, "write", form=True, names=False),
    Asks("GET", _FILES, names=False),
    Asks("GET", _FILES + "/{file_id}"),
    Asks("GET", _FILES + "/{file_id}/content"),
    Asks("DELETE", _FILES + "/{file_id}", "write"),
    Asks(
        "POST", "/v1/uploads", "write", names=False,
        body={"bytes": 4, "filename": "a.md", "mime_type": "text/markdown", "purpose": "user_data"},
    ),
    Asks("POST", "/v1/uploads/{upload_id}/parts", "write", form=True),
    Asks("POST", "/v1/uploads/{upload_id}/complete", "write", {"part_ids": ["part_x"]}),
    Asks("POST", "/v1/uploads/{upload_id}/cancel", "write"),
    Asks("POST", _STORES, "write", {"file_ids": ["{file}"]}),
    Asks("GET", _STORES, names=False),
    Asks("GET", _STORE),
    Asks("POST", _STORE, "write", {"name": "taken over"}),
    Asks("DELETE", _STORE, "write"),
    Asks("POST", _STORE + "/files", "write", {"file_id": "{file}"}),
    Asks("GET", _STORE + "/files"),
    Asks("GET", _IN_STORE),
    Asks("POST", _IN_STORE, "write", {"attributes": {"a": "b"}}),
    Asks("DELETE", _IN_STORE, "write"),
    Asks("GET", _IN_STORE + "/content"),
    Asks("POST", _STORE + "/file_batches", "write", {"file_ids": ["{file}"]}),
    Asks("GET", _BATCH),
    Asks("POST", _BATCH + "/cancel", "write"),
    Asks("GET", _BATCH + "/files"),
    Asks("POST", _STORE + "/search", body={"query": "x"}),
    Asks("POST", _RESPONSES, body={**QUESTION, "tools": STORE_TOOL}),
    Asks("GET", _RESPONSES + "/{response_id}"),
    Asks("DELETE", _RESPONSES + "/{response_id}", "write"),
    Asks("POST", _RESPONSES + "/{response_id}/feedback", body={"rating": "up"}),
    Asks(
        "POST", "/v1/chat/completions",
        body={"model": "youju:{store}", "messages": [{"role": "user", "content": "x"}]},
    ),
    Asks("GET", "/v1/feedback", names=False),
    Asks("GET", "/v1/feedback/export", "write", names=False),
    Asks("POST", "/v1/embeddings", body={"model": "all-MiniLM-L6-v2", "input": "x"}, names=False),
    Asks("POST", "/retrieval", body=_DIFY),
    Asks("GET", "/v1/models", names=False),
    Asks("GET", "/v1/models/{model_id:path}"),
]  # fmt: skip
MORE_NAMES = [
    Asks("POST", _RESPONSES, body={**QUESTION, "previous_response_id": "{response}"}),
    Asks("POST", _RESPONSES, body={**QUESTION, "model": "youju:{store}"}),
    Asks("POST", _RESPONSES, body={**QUESTION, "model": "youju:theirs"}),
]
CURSORS = [
    Asks("GET", _FILES, query={"after": "{file}"}),
    Asks("GET", _STORES, query={"before": "{store}"}),
    Asks("GET", "/v1/feedback", query={"after": "{feedback}"}),
]


def _id(asks: Asks) -> str:
    return f"{asks.method} {asks.path}"


@dataclass(frozen=True)
class Two:
    """A server with two projects; `theirs` are the ids of what the second one has."""

    served: Served
    keys: dict[str, str]
    theirs: dict[str, str]
    log_file: Path

    def ask(self, asks: Asks, key: str, ids: dict[str, str]) -> httpx.Response:
        path = asks.path.replace(":path", "")
        for name, id_ in ids.items():
            path = path.replace(f"{{{name}_id}}", id_)
        sent: dict[str, Any] = {"json": _filled(asks.body, ids)} if asks.body else {}
        if asks.form:
            name = "data" if "parts" in path else "file"
            sent = {"files": {name: ("a.md", b"text")}}
            sent |= {} if name == "data" else {"data": {"purpose": "user_data"}}
        with self.served.http(key) as http:
            return http.request(asks.method, path, params=_filled(asks.query, ids), **sent)


def _filled(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, str):
        for name, id_ in ids.items():
            value = value.replace(f"{{{name}}}", id_)
        return value
    if isinstance(value, list):
        return [_filled(one, ids) for one in value]
    if isinstance(value, dict):
        return {name: _filled(one, ids) for name, one in value.items()}
    return value


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, converted_models: Path, new_database: NewDatabase
) -> Iterator[Two]:
    home = tmp_path_factory.mktemp("two")
    (home / "models").symlink_to(converted_models, target_is_directory=True)
    with serving(home, database_url=new_database(home)) as served:
        db = Database(served.database)
        made = Keys(db)
        keys = {
            scope: made.create(scope, project="ours", scope=scope)[1]
            for scope in ("read", "write", "admin")
        }
        keys["theirs"] = made.create("them", project="them")[1]
        db.close()
        time.sleep(1.1)  # that no key existed is remembered for a second
        yield Two(served, keys, _things(served, keys["theirs"]), home)


def _things(served: Served, key: str) -> dict[str, str]:
    """Make one of everything with a key; return the ids."""
    client = served.client(key)
    file = client.files.create(
        file=("pump.md", b"# Pump\n\nIt weighs 185 kg."), purpose="user_data"
    )
    store = client.vector_stores.create(name="theirs")
    batch = client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=[file.id], poll_interval_ms=50
    )
    answer = client.responses.create(model="youju:theirs", input="How much does it weigh?")
    with served.http(key) as http:
        rated = http.post(f"/v1/responses/{answer.id}/feedback", json={"rating": "up"}).json()
        upload = http.post(
            "/v1/uploads",
            json={"bytes": 9, "filename": "b.md", "mime_type": "text/x", "purpose": "user_data"},
        ).json()
    return {
        "file": file.id, "store": store.id, "batch": batch.id, "response": answer.id,
        "feedback": rated["id"], "upload": upload["id"], "model": "youju:theirs",
    }  # fmt: skip


# -- with keys ---------------------------------------------------------------------------------


def test_the_table_has_every_route() -> None:
    there = {
        (method, route.path)
        for router in _ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert {(asks.method, asks.path) for asks in ROUTES} == there - OPEN


@pytest.mark.parametrize("asks", ROUTES, ids=_id)
def test_every_route_needs_a_valid_key(two: Two, asks: Asks) -> None:
    for key in ("", "sk-youju-" + "x" * 43, two.keys["admin"][:-1], "x" * 20_000):
        answer = two.ask(asks, key, two.theirs)
        if asks.path == "/retrieval":  # as Dify has it
            assert answer.status_code == 403
            assert answer.json()["error_code"] == (1002 if key else 1001)
            continue
        assert answer.status_code == 401, answer.text
        assert answer.json()["error"]["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_pages_of_the_system_need_no_key(two: Two) -> None:
    with two.served.http() as http:
        for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert http.get(path).status_code == 200, path


@pytest.mark.parametrize("asks", [asks for asks in ROUTES if asks.needs == "write"], ids=_id)
def test_reading_keys_change_nothing(two: Two, asks: Asks) -> None:
    answer = two.ask(asks, two.keys["read"], two.theirs)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "insufficient_scope"
    for scope in ("write", "admin"):
        assert two.ask(asks, two.keys[scope], two.theirs).status_code in (200, 404)


@pytest.mark.parametrize("asks", [asks for asks in ROUTES if asks.needs == "read"], ids=_id)
def test_reading_keys_read(two: Two, asks: Asks) -> None:
    answer = two.ask(asks, two.keys["read"], two.theirs)
    assert answer.status_code == (404 if asks.names else 200), answer.text


@pytest.mark.parametrize("asks", [asks for asks in [*ROUTES, *MORE_NAMES] if asks.names], ids=_id)
def test_what_another_project_has_is_not_there(two: Two, asks: Asks) -> None:
    answer = two.ask(asks, two.keys["admin"], two.theirs)
    assert answer.status_code == 404, answer.text
    nowhere = {name: id_[:-4] + "zzzz" for name, id_ in two.theirs.items()}
    told = two.ask(asks, two.keys["admin"], nowhere)
    assert told.status_code == 404
    for name, id_ in two.theirs.items():  # word for word as if it had never been
        assert answer.text.replace(id_, "") == told.text.replace(nowhere[name], "") or (
            id_ not in answer.text
        )


@pytest.mark.parametrize("asks", CURSORS, ids=_id)
def test_what_another_project_has_is_a_cursor_like_any(two: Two, asks: Asks) -> None:
    nowhere = {name: id_[:-4] + "0000" for name, id_ in two.theirs.items()}
    for ids in (two.theirs, nowhere):
        told = two.ask(asks, two.keys["admin"], ids).json().get("data")
        assert told == (None if "feedback" in asks.path else [])


def test_own_store_with_another_projects_file_or_batch(two: Two) -> None:
    with two.served.http(two.keys["write"]) as http:
        ours = {**two.theirs, "store": http.post("/v1/vector_stores", json={}).json()["id"]}
        http.delete(f"/v1/files/{two.theirs['file']}")
    for asks in ROUTES:
        if "{file_id}" in asks.path or "{batch_id}" in asks.path or "{file}" in str(asks.body):
            assert two.ask(asks, two.keys["admin"], ours).status_code == 404, _id(asks)


def test_nothing_of_theirs_was_changed_by_all_that(two: Two) -> None:
    with two.served.http(two.keys["theirs"]) as http:
        for path in ("files/{file}", "vector_stores/{store}", "responses/{response}"):
            assert http.get("/v1/" + path.format_map(two.theirs)).status_code == 200
        store = http.get("/v1/vector_stores/" + two.theirs["store"]).json()
        assert (store["name"], store["file_counts"]["completed"]) == ("theirs", 1)
        assert http.get("/v1/feedback").json()["data"][0]["id"] == two.theirs["feedback"]


def test_lists_show_own_things_only(two: Two) -> None:
    with two.served.http(two.keys["read"]) as http:
        for path in ("/v1/files", "/v1/vector_stores", "/v1/feedback", "/v1/models"):
            text = http.get(path).text
            assert not any(id_ in text for id_ in two.theirs.values()), path
        assert http.get("/v1/feedback/export").status_code == 403
    with two.served.http(two.keys["write"]) as http:
        assert http.get("/v1/feedback/export").text == ""
    with two.served.http(two.keys["theirs"]) as http:
        models = [model["id"] for model in http.get("/v1/models").json()["data"]]
        assert "youju:theirs" in models


def test_revoked_and_expired_keys_are_worthless_within_two_seconds(two: Two) -> None:
    db = Database(two.served.database)
    keys = Keys(db)
    info, key = keys.create("short")
    expired, old = keys.create("old", days=1)
    with db.write() as session:
        from rag.store.service_tables import KeyRow

        row = session.get(KeyRow, expired.id)
        assert row is not None
        row.expires_at = int(time.time()) - 1
    with two.served.http(key) as http:
        assert http.get("/v1/models").status_code == 200
        keys.revoke(info.id)
        end = time.monotonic() + 2
        while http.get("/v1/models").status_code == 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert http.get("/v1/models").status_code == 401
        assert http.get("/v1/models", headers={"authorization": f"Bearer {old}"}).status_code == 401
    db.close()


class _AtOnce:
    async def at_the_gate(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


AT_ONCE: Any = _AtOnce()


async def test_when_every_key_is_revoked_nothing_is_open(served_home: Path) -> None:
    db = Database(f"sqlite:///{served_home / 'youju.db'}")
    keys = Keys(db)
    info, _ = keys.create("only")
    keys.revoke(info.id)
    assert await Doorman(keys, 0).closed(AT_ONCE)
    db.close()


async def test_a_long_key_is_not_remembered(served_home: Path) -> None:
    db = Database(f"sqlite:///{served_home / 'youju.db'}")
    doorman = Doorman(Keys(db), 0)
    assert await doorman.access(AT_ONCE, "x" * 60_000) is None
    assert not doorman._known
    db.close()


# -- without keys ------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "LOCALHOST:99"])
def test_without_keys_this_machine_may_ask(served: Served, host: str) -> None:
    with served.http() as http:
        assert http.get("/v1/models", headers={"host": host}).status_code == 200
        for origin in ("http://localhost:3000", "http://127.0.0.1"):
            sent = {"host": host, "origin": origin}
            assert http.get("/v1/models", headers=sent).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost.evil.example:8000"},
        {"host": "evil.example@localhost.evil.example"},
        {"host": "testserver"},
        {"host": ""},
        {"host": "[::1"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"x-forwarded-for": "203.0.113.9"},
    ],
    ids=str,
)
def test_without_keys_other_sites_may_not(served: Served, headers: dict[str, str]) -> None:
    with served.http() as http:
        for method, path in (("GET", "/v1/files"), ("POST", "/v1/files"), ("GET", "/v1/models/x")):
            answer = http.request(method, path, headers=headers)
            assert answer.status_code == 403, (method, path)
            assert answer.json()["error"]["code"] == "not_local"


def test_a_form_of_another_site_cannot_send_json(served: Served) -> None:
    """Browsers send text/plain across sites without asking; JSON they must ask for."""
    with served.http() as http:
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = http.post(
                "/v1/vector_stores", content=b'{"name": "x"}', headers={"content-type": kind}
            )
            assert answer.status_code == 415, (kind, answer.text)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_serving_the_network_needs_a_key(run: Run, home: Path, host: str) -> None:
    assert_one_line(run("serve", "--host", host), 2, "API keys", "youju keys create")


# -- youju keys --------------------------------------------------------------------------------


def test_keys_are_made_listed_and_revoked(run: Run, home: Path) -> None:
    assert run("keys", "list").out.startswith("No keys yet")
    assert run("keys", "list", "--json").json == {"keys": []}
    made = run("keys", "create", "laptop", "--scope", "read", "--days", "3", "--json").json
    assert made["key"].startswith("sk-youju-")
    assert len(made["key"]) == 52
    plain = run("keys", "create", "desk", "--project", "lab").out.splitlines()
    assert plain[0].startswith("sk-youju-")
    found = run("keys", "list", "--json").json["keys"]
    assert [(key["name"], key["project"], key["scope"]) for key in found] == [
        ("laptop", "default", "read"), ("desk", "lab", "write"),
    ]  # fmt: skip
    listed = run("keys", "list").out + run("keys", "list", "--json").out
    for key in (made["key"], plain[0]):
        assert key not in listed
        for path in home.glob("youju.db*"):
            assert key.encode() not in path.read_bytes(), path
    assert "valid until" in listed
    assert run("keys", "revoke", made["id"]).status == 0
    assert "revoked" in run("keys", "list").out
    assert_one_line(run("keys", "revoke", "key_nowhere"), 2, "key_nowhere", "youju keys list")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[31m", "x" * 101, "\ud800"])
def test_a_name_that_cannot_be_one(run: Run, home: Path, name: str) -> None:
    assert_one_line(run("keys", "create", name), 2, "for a key is not usable")
    assert_one_line(run("keys", "create", "good", "--project", name), 2, "project")


# -- how much ----------------------------------------------------------------------------------


def test_rate_limit_and_quota_are_each_keys_and_projects_own(served_home: Path) -> None:
    with serving(served_home, rate_limit=5, project_quota_mib=0.001) as served:
        db = Database(f"sqlite:///{served_home / 'youju.db'}")
        one, other = Keys(db).create("one")[1], Keys(db).create("other")[1]
        db.close()
        time.sleep(1.1)
        with served.http(one) as http, served.http(other) as beside:
            big = {"file": ("a.md", b"x" * 2000)}
            answer = http.post("/v1/files", files=big, data={"purpose": "user_data"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "quota_exceeded")
            announced = {"filename": "a.md", "mime_type": "text/x", "purpose": "user_data"}
            for size, status in ((2000, 403), (700, 200), (700, 403)):  # what is to come counts
                answer = http.post("/v1/uploads", json={**announced, "bytes": size})
                assert answer.status_code == status, answer.text
            assert http.get("/v1/models").status_code == 200
            for _ in range(3):
                answer = http.get("/v1/models")
                assert answer.status_code == 429
                assert answer.json()["error"]["code"] == "rate_limit_exceeded"
                assert 1 <= int(answer.headers["retry-after"]) <= 61
            assert beside.get("/v1/models").status_code == 200
        assert not list((served_home / "blobs/incoming").glob("*"))


# -- headers -----------------------------------------------------------------------------------


def test_safe_headers_and_no_cors_on_every_answer(two: Two) -> None:
    key = {"authorization": f"Bearer {two.keys['read']}", "origin": "https://app.example"}
    asked = [
        ("GET", "/livez"), ("GET", "/docs"), ("GET", "/docs/static/swagger-ui.css"),
        ("GET", "/openapi.json"), ("GET", "/v1/models"), ("GET", "/nowhere"), ("PUT", "/v1/files"),
        ("OPTIONS", "/v1/files"), ("POST", "/v1/responses"),
    ]  # fmt: skip
    with two.served.http() as http:
        for method, path in asked:
            for headers in ({}, key):
                answer = http.request(method, path, headers=headers)
                told = answer.headers
                assert told["x-content-type-options"] == "nosniff", path
                assert told["x-frame-options"] == "DENY"
                assert "frame-ancestors 'none'" in told["content-security-policy"]
                assert told["cache-control"]
                assert told["x-request-id"]
                assert not [name for name in told if name.startswith("access-control")], path


def test_cors_is_for_the_configured_origin(served_home: Path) -> None:
    with serving(served_home, cors_origins="https://app.example") as served, served.http() as http:
        ask = {"access-control-request-method": "POST", "origin": "https://app.example"}
        answer = http.options("/v1/responses", headers=ask)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in answer.headers
        for origin in ("https://evil.example", "https://app.example.evil.example", "null"):
            answer = http.options("/v1/responses", headers={**ask, "origin": origin})
            assert "access-control-allow-origin" not in answer.headers
            assert answer.json()["error"]["code"] == "cors_refused"
            assert repr(origin) in answer.json()["error"]["message"]
            answer = http.get("/livez", headers={"origin": origin})
            assert "access-control-allow-origin" not in answer.headers


def test_the_documentation_asks_no_other_host(two: Two) -> None:
    with two.served.http() as http:
        page = http.get("/docs")
        assert "//" not in page.text.replace("https://fastapi.tiangolo.com/img/favicon.png", "")
        policy = page.headers["content-security-policy"]
        assert "http" not in policy
        assert "*" not in policy
        for part in page.text.split('"')[1::2] + page.text.split("'")[1::2]:
            if part.startswith("/"):
                assert http.get(part).status_code == 200, part
