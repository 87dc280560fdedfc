"""What the server's log holds: a JSON line for each request, without what anybody wrote in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from served import Served, serving
from structlog.testing import capture_logs

TEXT = b"# Pump\n\nThe D40 weighs 185 kg and needs 230 V. It is serviced every six months.\n"
QUESTION = "How much does the D40 weigh?"
NAME = "secret-pump.md"


def use_everything(served: Served) -> None:
    """Upload a file, search for it and ask about it by every route that does so."""
    client = served.client()
    file = client.files.create(file=(NAME, TEXT), purpose="assistants")
    client.uploads.create(
        filename="parts-" + NAME, bytes=5, mime_type="text/markdown", purpose="assistants"
    )
    store = client.vector_stores.create(name="logged")
    client.vector_stores.files.create_and_poll(
        file.id, vector_store_id=store.id, poll_interval_ms=50
    )
    client.vector_stores.search(store.id, query=QUESTION)
    client.responses.create(model="youju:logged", input=QUESTION)
    list(client.responses.create(model="youju:logged", input=QUESTION, stream=True))
    messages: Any = [{"role": "user", "content": QUESTION}]
    client.chat.completions.create(model="youju:logged", messages=messages)
    list(client.chat.completions.create(model="youju:logged", messages=messages, stream=True))
    with served.http() as http:
        body = {
            "knowledge_id": store.id, "query": QUESTION,
            "retrieval_setting": {"top_k": 3, "score_threshold": 0.0},
        }  # fmt: skip
        assert http.post("/retrieval", json=body).status_code == 200


def lines_of(home: Path, **settings: Any) -> list[dict[str, Any]]:
    with capture_logs() as lines, serving(home, **settings) as served:
        use_everything(served)
    return [dict(line) for line in lines]


@pytest.fixture
def _uncached_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logger that capture_logs can catch, whatever was set up before."""
    import structlog

    from api import observing

    monkeypatch.setattr(observing, "log", structlog.get_logger("youju"))


@pytest.mark.usefixtures("_uncached_log")
def test_without_the_setting_nothing_that_was_written_is_logged(served_home: Path) -> None:
    lines = lines_of(served_home)
    told = repr(lines)
    for word in ("D40", "weigh", "pump", "185 kg", "logged"):
        assert word not in told, word
    asked = [line for line in lines if line.get("route") == "/v1/responses"]
    assert len(asked) == 2
    assert set(asked[0]) == {
        "event", "log_level", "request_id", "method", "route", "status", "ms",
    }  # fmt: skip
    (ingested,) = [line for line in lines if line["event"] == "ingested"]
    assert ingested["status"] == "completed"


@pytest.mark.usefixtures("_uncached_log")
def test_with_the_setting_questions_and_names_of_files_are_logged(served_home: Path) -> None:
    lines = lines_of(served_home, log_content=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["event"] == "request":
            found.setdefault(f"{line['method']} {line['route']}", []).append(line)
    for route, times in (
        ("POST /v1/vector_stores/{store_id}/search", 1),
        ("POST /v1/responses", 2),
        ("POST /v1/chat/completions", 2),
        ("POST /retrieval", 1),
    ):
        assert len(found[route]) == times, route
        for line in found[route]:
            assert line["question"] == QUESTION, route
            assert line["files"] == [NAME], route
    assert found["POST /v1/files"][0]["files"] == [NAME]
    assert found["POST /v1/uploads"][0]["files"] == ["parts-" + NAME]
    assert "185 kg" not in repr(lines)
