"""The server is up, says so, and answers a question about a file that was just uploaded."""

from __future__ import annotations

from served import Served

TEXT = b"# Pump\n\nThe D40 weighs 185 kg and needs 230 V. It is serviced every six months.\n"


def test_a_file_is_uploaded_and_asked(served: Served) -> None:
    client = served.client()
    file = client.files.create(file=("pump.md", TEXT), purpose="assistants")
    store = client.vector_stores.create(name="smoke")
    listed = client.vector_stores.files.create_and_poll(
        file.id, vector_store_id=store.id, poll_interval_ms=50
    )
    assert listed.status == "completed"
    answer = client.responses.create(model="youju:smoke", input="How much does the D40 weigh?")
    assert "185 kg" in answer.output_text


def test_every_system_page_is_there(served: Served) -> None:
    with served.http() as http:
        for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/models"):
            assert http.get(path).status_code == 200, path
