"""Vector stores, their files and batches through the official client."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from filled import POLL_MS, parsed, upload
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from inline_jobs import InlineJobs
from openai import BadRequestError, ConflictError, NotFoundError, OpenAI
from served import Served, serving

from rag.store.database import Database
from rag.store.vector_stores import VectorStores

TEXT = "The D40 weighs 185 kg. "
BROKEN = b"%PDF-1.7\nnothing that a parser could read"


@pytest.fixture
def client(served: Served) -> OpenAI:
    return served.client()


def finished(client: OpenAI, store: str, file: str) -> Any:
    return client.vector_stores.files.poll(file, vector_store_id=store, poll_interval_ms=POLL_MS)


# -- stores ------------------------------------------------------------------------------------


def test_a_file_deleted_at_that_moment_leaves_no_store(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = upload(client, "kept.txt", TEXT)
    monkeypatch.setattr("api.routes_stores._first_missing", lambda *_: None)  # it was there then
    with pytest.raises(NotFoundError):
        client.vector_stores.create(name="half made", file_ids=[kept, "file-gone"])
    assert "half made" not in {store.name for store in client.vector_stores.list(limit=100)}


def test_a_store_is_created_looked_at_changed_and_deleted(client: OpenAI) -> None:
    file = upload(client, "a.txt", TEXT)
    store = client.vector_stores.create(
        name="泵 pumps",
        description="All about pumps",
        file_ids=[file],
        metadata={"team": "service"},
        expires_after={"anchor": "last_active_at", "days": 7},
    )
    assert (store.name, store.object, store.metadata) == (
        "泵 pumps", "vector_store", {"team": "service"},
    )  # fmt: skip
    assert store.to_dict()["description"] == "All about pumps"
    assert store.file_counts.total == 1
    assert store.expires_after is not None
    assert store.expires_after.days == 7
    assert store.last_active_at is not None
    assert store.expires_at == store.last_active_at + 7 * 86_400
    assert finished(client, store.id, file).status == "completed"
    now = client.vector_stores.retrieve(store.id)
    assert (now.status, now.file_counts.completed) == ("completed", 1)
    assert now.usage_bytes >= len(TEXT)
    changed = client.vector_stores.update(
        store.id, name="renamed", metadata={"a": "b"}, expires_after=None
    )
    assert (changed.name, changed.metadata, changed.expires_at) == ("renamed", {"a": "b"}, None)
    assert client.vector_stores.retrieve(store.id) == changed
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(NotFoundError) as caught:
        client.vector_stores.retrieve(store.id)
    assert caught.value.code == "vector_store_not_found"
    assert client.files.retrieve(file).id == file


def test_a_store_needs_no_name_and_two_can_share_one(client: OpenAI) -> None:
    assert client.vector_stores.create().name == ""
    same = [client.vector_stores.create(name="twins").id for _ in range(2)]
    assert [client.vector_stores.retrieve(id_).name for id_ in same] == ["twins", "twins"]


def test_an_unknown_file_makes_no_store(client: OpenAI) -> None:
    before = [store.id for store in client.vector_stores.list()]
    with pytest.raises(NotFoundError) as caught:
        client.vector_stores.create(name="x", file_ids=["file-nowhere"])
    assert (caught.value.code, caught.value.param) == ("file_not_found", "file_ids")
    assert [store.id for store in client.vector_stores.list()] == before


def test_lists_go_both_ways(client: OpenAI) -> None:
    made = [client.vector_stores.create(name=f"page {number}").id for number in range(5)]
    upwards = client.vector_stores.list(order="asc", after=made[0], limit=2)
    assert [store.id for store in upwards.data] == made[1:3]
    assert upwards.has_more
    assert [store.id for store in client.vector_stores.list(order="asc", after=made[0])] == made[1:]
    back = client.vector_stores.list(order="asc", before=made[3], limit=2)
    assert [store.id for store in back.data] == made[1:3]
    newest = client.vector_stores.list(limit=3)
    assert [store.id for store in newest.data] == made[:1:-1]
    back = client.vector_stores.list(before=made[0], limit=2)
    assert [store.id for store in back.data] == [made[2], made[1]]
    with pytest.raises(BadRequestError) as caught:
        client.vector_stores.list(limit=101)
    assert caught.value.param == "limit"


@pytest.fixture(scope="module")
def shelf(served: Served) -> tuple[str, list[str]]:
    """A store of seven files, and their ids in order of age."""
    client = served.client()
    store = client.vector_stores.create(name="shelf")
    files = [upload(client, f"{number}.txt", f"{TEXT} {number}") for number in range(7)]
    batch = client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=files, poll_interval_ms=POLL_MS
    )
    assert batch.file_counts.completed == 7
    return store.id, files


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    limit=st.integers(1, 9),
    order=st.sampled_from(["asc", "desc"]),
    start=st.integers(0, 6),
    forwards=st.booleans(),
)
def test_any_page_is_a_stretch_of_the_list(
    client: OpenAI,
    shelf: tuple[str, list[str]],
    limit: int,
    order: Literal["asc", "desc"],
    start: int,
    forwards: bool,
) -> None:
    store, files = shelf
    whole = files if order == "asc" else files[::-1]
    cursor = whole[start]
    if forwards:
        page = client.vector_stores.files.list(store, limit=limit, order=order, after=cursor)
        expected, beyond = whole[start + 1 :][:limit], whole[start + 1 + limit :]
    else:
        page = client.vector_stores.files.list(store, limit=limit, order=order, before=cursor)
        expected, beyond = whole[:start][-limit:], whole[: max(0, start - limit)]
    assert [file.id for file in page.data] == expected
    assert page.has_more == bool(beyond)
    # Going on from any page, the client itself walks to the end of the list.
    if forwards:
        walked = client.vector_stores.files.list(store, limit=limit, order=order, after=cursor)
        assert [file.id for file in walked] == whole[start + 1 :]


# -- files -------------------------------------------------------------------------------------


def test_files_are_added_listed_and_removed(client: OpenAI) -> None:
    store = client.vector_stores.create(name="files").id
    good = client.vector_stores.files.upload_and_poll(
        vector_store_id=store, file=("good.txt", TEXT.encode()), poll_interval_ms=POLL_MS
    )
    assert (good.status, good.last_error, good.vector_store_id) == ("completed", None, store)
    bad = client.vector_stores.files.create_and_poll(
        upload(client, "bad.pdf", BROKEN),
        vector_store_id=store,
        attributes={"kind": "broken"},
        poll_interval_ms=POLL_MS,
    )
    assert bad.status == "failed"
    assert bad.last_error is not None
    assert bad.last_error.code == "invalid_file"
    assert bad.last_error.message
    assert bad.attributes == {"kind": "broken"}
    only = client.vector_stores.files.list(store, filter="failed")
    assert [file.id for file in only] == [bad.id]
    assert {file.id for file in client.vector_stores.files.list(store)} == {good.id, bad.id}
    assert parsed(client, store, good.id).startswith("The D40 weighs")
    with pytest.raises(ConflictError) as caught:
        client.vector_stores.files.content(bad.id, vector_store_id=store)
    assert caught.value.code == "file_not_completed"
    removed = client.vector_stores.files.delete(good.id, vector_store_id=store)
    assert (removed.id, removed.deleted) == (good.id, True)
    assert client.vector_stores.search(store, query="D40 weight").data == []
    assert client.files.retrieve(good.id).id == good.id
    with pytest.raises(NotFoundError):
        client.vector_stores.files.retrieve(good.id, vector_store_id=store)
    counts = client.vector_stores.retrieve(store).file_counts
    assert (counts.failed, counts.total) == (1, 1)


def test_a_file_that_failed_can_be_tried_again(client: OpenAI) -> None:
    store = client.vector_stores.create(name="again").id
    file = upload(client, "bad.pdf", BROKEN)
    for _ in range(2):
        listed = client.vector_stores.files.create_and_poll(
            file, vector_store_id=store, poll_interval_ms=POLL_MS
        )
        assert listed.status == "failed"


def test_a_deleted_file_leaves_every_store(client: OpenAI) -> None:
    stores = [client.vector_stores.create(name=f"both {number}").id for number in range(2)]
    file = upload(client, "a.txt", TEXT)
    for store in stores:
        client.vector_stores.files.create(store, file_id=file)
        finished(client, store, file)
    client.files.delete(file)
    for store in stores:
        assert client.vector_stores.files.list(store).data == []
        assert client.vector_stores.search(store, query="D40").data == []


def test_chunks_have_the_size_that_was_asked_for(client: OpenAI) -> None:
    store = client.vector_stores.create(name="chunks").id
    text = "".join(f"Sentence number {number} speaks of pumps. " for number in range(120))
    file = upload(client, "long.txt", text)
    listed = client.vector_stores.files.create_and_poll(
        file,
        vector_store_id=store,
        poll_interval_ms=POLL_MS,
        chunking_strategy={
            "type": "static",
            "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0},
        },
    )
    assert listed.chunking_strategy is not None
    assert listed.chunking_strategy.to_dict() == {
        "type": "static",
        "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0},
    }
    hits = client.vector_stores.search(store, query="sentence about pumps", max_num_results=50)
    spans = sorted((hit.place["start"], hit.place["end"]) for hit in hits.data)  # type: ignore[attr-defined]
    assert len(spans) >= 9  # at least 1,080 tokens
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    with pytest.raises(BadRequestError, match="at most half"):
        client.vector_stores.files.create(
            store,
            file_id=file,
            chunking_strategy={
                "type": "static",
                "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 51},
            },
        )


# -- batches -----------------------------------------------------------------------------------


def test_a_batch_of_good_and_bad_files(client: OpenAI) -> None:
    store = client.vector_stores.create(name="mixed").id
    done = client.vector_stores.file_batches.upload_and_poll(
        store,
        files=[("a.txt", b"Alpha pumps."), ("b.txt", b"Beta pumps."), ("c.pdf", BROKEN)],
        file_ids=[upload(client, "empty.txt", "  \n ")],
        poll_interval_ms=POLL_MS,
    )
    assert done.status == "completed"
    counts = done.file_counts
    assert (counts.completed, counts.failed, counts.in_progress, counts.total) == (2, 2, 0, 4)
    listed = client.vector_stores.file_batches.list_files(
        done.id, vector_store_id=store, filter="failed"
    )
    assert all(file.last_error is not None for file in listed.data)
    assert len(listed.data) == 2
    every = client.vector_stores.file_batches.list_files(done.id, vector_store_id=store, limit=1)
    assert len(list(every)) == 4


def test_a_batch_of_bad_files_has_failed(client: OpenAI) -> None:
    store = client.vector_stores.create(name="bad").id
    batch = client.vector_stores.file_batches.create_and_poll(
        store, file_ids=[upload(client, "c.pdf", BROKEN)], poll_interval_ms=POLL_MS
    )
    assert batch.status == "failed"


def test_a_batch_is_of_ids_or_of_files_and_not_both(client: OpenAI) -> None:
    store = client.vector_stores.create(name="either").id
    file = upload(client, "a.txt", TEXT)
    with pytest.raises(BadRequestError, match="either file_ids or files"):
        client.vector_stores.file_batches.create(store, file_ids=[file], files=[{"file_id": file}])
    with pytest.raises(NotFoundError) as caught:
        client.vector_stores.file_batches.create(store, file_ids=[file, "file-nowhere"])
    assert caught.value.code == "file_not_found"
    with pytest.raises(NotFoundError) as caught:
        client.vector_stores.file_batches.retrieve("vsfb_nowhere", vector_store_id=store)
    assert caught.value.code == "file_batch_not_found"


# -- while ingesting ---------------------------------------------------------------------------


class Gate:
    """Lets one file after another be ingested, when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Semaphore(0)
        self.reached = threading.Semaphore(0)
        gate, plain = self, InlineJobs.ingest

        def gated(jobs: Any, *given: Any) -> None:
            gate.reached.release()
            gate._open.acquire(timeout=20)
            plain(jobs, *given)

        monkeypatch.setattr(InlineJobs, "ingest", gated)

    def let(self, files: int = 1) -> None:
        self._open.release(files)


def test_a_store_that_is_ingesting_answers_from_what_is_done(
    served_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with serving(served_home) as running:
        client = running.client()
        store = client.vector_stores.create(name="busy").id
        first = upload(client, "d40.txt", "The D40 weighs 185 kg.")
        second = upload(client, "d60.txt", "The D60 weighs 240 kg.")
        batch = client.vector_stores.file_batches.create(store, file_ids=[first, second])
        assert (batch.status, batch.file_counts.in_progress) == ("in_progress", 2)
        assert client.vector_stores.search(store, query="weighs").data == []
        refused = client.responses.create(model="youju:busy", input="How much does the D40 weigh?")
        assert refused.metadata == {"refused": "true"}
        gate.let()
        assert finished(client, store, first).status == "completed"
        now = client.vector_stores.retrieve(store)
        assert (now.status, now.file_counts.completed, now.file_counts.in_progress) == (
            "in_progress", 1, 1,
        )  # fmt: skip
        found = client.vector_stores.search(store, query="weighs")
        assert [hit.file_id for hit in found.data] == [first]
        answer = client.responses.create(model="youju:busy", input="How much does the D40 weigh?")
        assert "185 kg" in answer.output_text
        cancelled = client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store)
        assert cancelled.status == "cancelled"
        assert (cancelled.file_counts.completed, cancelled.file_counts.cancelled) == (1, 1)
        gate.let()  # what was in hand when it was cancelled must not appear
        third = upload(client, "d80.txt", "The D80 weighs 300 kg.")
        client.vector_stores.files.create(store, file_id=third)
        gate.let()
        assert finished(client, store, third).status == "completed"
        found = client.vector_stores.search(store, query="weighs")
        assert {hit.file_id for hit in found.data} == {first, third}
        assert client.vector_stores.retrieve(store).status == "completed"


def test_deleting_what_is_being_ingested(
    served_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with serving(served_home) as running:
        client = running.client()
        doomed = client.vector_stores.create(name="doomed").id
        client.vector_stores.files.create(doomed, file_id=upload(client, "a.txt", TEXT))
        assert gate.reached.acquire(timeout=10)
        assert client.vector_stores.delete(doomed).deleted
        gate.let()
        store = client.vector_stores.create(name="kept").id
        gone, kept = (upload(client, f"{name}.txt", TEXT) for name in ("gone", "kept"))
        client.vector_stores.files.create(store, file_id=gone)
        assert gate.reached.acquire(timeout=10)
        assert client.files.delete(gone).deleted
        gate.let(2)
        client.vector_stores.files.create(store, file_id=kept)
        assert finished(client, store, kept).status == "completed"
        assert [file.id for file in client.vector_stores.files.list(store)] == [kept]
        assert {hit.file_id for hit in client.vector_stores.search(store, query="D40").data} == {
            kept
        }
        with pytest.raises(NotFoundError):
            client.vector_stores.retrieve(doomed)


def test_an_expired_store_is_known_and_not_searched(served: Served, client: OpenAI) -> None:
    store = client.vector_stores.create(
        name="short", expires_after={"anchor": "last_active_at", "days": 1}
    ).id
    db = Database(served.database)
    VectorStores(db).change(store, {"last_active_at": int(time.time()) - 2 * 86_400})
    db.close()
    assert client.vector_stores.retrieve(store).status == "expired"
    with pytest.raises(ConflictError) as caught:
        client.vector_stores.search(store, query="anything")
    assert caught.value.code == "vector_store_expired"
    with pytest.raises(ConflictError):
        client.vector_stores.files.create(store, file_id=upload(client, "a.txt", TEXT))


def test_putting_a_file_in_again_keeps_what_is_not_given(client: OpenAI) -> None:
    store = client.vector_stores.create(name="again").id
    file = upload(client, "again.txt", TEXT)
    put = client.vector_stores.files.create_and_poll
    put(file, vector_store_id=store, attributes={"dept": "heat"}, poll_interval_ms=50)
    again = put(file, vector_store_id=store, poll_interval_ms=50)
    assert again.attributes == {"dept": "heat"}
    sizes = {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}
    with pytest.raises(ConflictError, match="chunks of another size"):
        put(
            file,
            vector_store_id=store,
            chunking_strategy={"type": "static", "static": sizes},  # type: ignore[arg-type]
        )
