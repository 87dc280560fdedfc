"""The list of files of each store: put in, claimed by one worker at a time, taken out."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from service_samples import add_file, check_lists_agree, check_nothing_is_left, count, new_file
from sqlalchemy import select
from store_samples import DIM, live, log_of, new_document

from rag.errors import AlreadyThere, CursorError, UnknownFile, UnknownStore
from rag.store.blobs import Blobs
from rag.store.catalog import Catalog
from rag.store.changelog import used_bytes
from rag.store.corpus import Store
from rag.store.database import Database
from rag.store.files import Files
from rag.store.pages import Slice
from rag.store.service_tables import FileBatchRow, FileRow, StoreFileRow
from rag.store.store_files import Counts, Entry, StoreFiles
from rag.store.tables import DEFAULT_PROJECT, DocumentRow, StoreRow
from rag.store.vector_stores import Maker, NewStore, VectorStores


@pytest.fixture
def files(db: Database, tmp_path: Path) -> Files:
    return Files(db, Blobs(tmp_path / "blobs"))


@pytest.fixture
def listed(db: Database) -> StoreFiles:
    return StoreFiles(db)


def make(db: Database, title: str = "s") -> Store:
    stores = VectorStores(db)
    row = stores.create(DEFAULT_PROJECT, NewStore(title=title), Maker("e1", DIM, "c1"))
    return stores.open(row)


@pytest.fixture
def store(db: Database) -> Store:
    return make(db)


def add_rows(db: Database, number: int) -> list[str]:
    """Make files that have no bytes; return their ids, oldest first."""
    rows = [
        FileRow(
            id=f"file-{place:024x}", project_id=DEFAULT_PROJECT, filename=f"{place}.txt", bytes=1,
            sha256="0", kept=True, purpose="assistants", media_type="text/plain", created_at=place,
        )
        for place in range(number)
    ]  # fmt: skip
    with db.write() as session:
        session.add_all(rows)
        session.flush()
        return [row.id for row in rows]


def commit(store: Store, file_id: str, worker: str, chunks: int = 2) -> bool:
    """Do what a worker does at the end."""
    new = new_document("a.txt", chunks=chunks)
    return store.commit_file(replace(new, source=file_id, file_id=file_id), worker)


def state(listed: StoreFiles, store: Store, file_id: str) -> StoreFileRow:
    row = listed.get(store.id, file_id)
    assert row is not None
    return row


# -- in and out ------------------------------------------------------------------------------------


def test_a_file_is_put_in_ingested_and_taken_out(
    db: Database, files: Files, listed: StoreFiles, store: Store
) -> None:
    file = add_file(files, b"x")
    listed.add(store.id, [Entry(file.id, {"year": 2024, "新": True}, 100, 10)])
    assert listed.waiting() == 1
    claimed = listed.claim("w")
    assert claimed is not None
    entry, found = claimed
    assert (entry.store_id, entry.file_id, found.sha256) == (store.id, file.id, file.sha256)
    assert (entry.chunk_tokens, entry.chunk_overlap) == (100, 10)
    assert listed.chunk_sizes(store.id) == {file.id: (100, 10)}

    assert commit(store, file.id, "w")

    done = state(listed, store, file.id)
    assert (done.status, done.worker, done.error_code) == ("completed", None, None)
    assert done.usage_bytes == used_bytes(new_document("a.txt")) > 0
    assert listed.attributes(store.id) == {file.id: {"year": 2024, "新": True}}
    assert listed.chunk_ids(store.id, [file.id]).tolist() == sorted(live(db, store))
    assert listed.chunk_ids(store.id, ["file-other"]).tolist() == []
    assert listed.chunk_ids(store.id, []).dtype == np.int64
    assert {chunk.file_id for chunk in store.chunks(sorted(live(db, store))).values()} == {file.id}
    check_lists_agree(db)

    assert store.remove_file(file.id)
    assert not store.remove_file(file.id)
    check_nothing_is_left(db, files=1)
    assert sum(op for _, op, _ in log_of(db, store)) == 0


def test_one_file_in_two_stores_leaves_one_at_a_time(
    db: Database, files: Files, listed: StoreFiles
) -> None:
    one, two = make(db, "one"), make(db, "two")
    file = add_file(files, b"x")
    for store in (one, two):
        listed.add(store.id, [Entry(file.id)])
        assert listed.claim("w") is not None
        assert commit(store, file.id, "w")

    assert one.remove_file(file.id)

    assert listed.get(one.id, file.id) is None
    assert state(listed, two, file.id).status == "completed"
    assert len(live(db, two)) == 2
    check_lists_agree(db)
    assert VectorStores(db).delete(two.id) == 1
    check_nothing_is_left(db, files=1)


def test_putting_in_twice_changes_the_attributes_only(
    db: Database, listed: StoreFiles, store: Store
) -> None:
    (file,) = add_rows(db, 1)
    listed.add(store.id, [Entry(file, {"a": 1}), Entry(file, {"a": 2})])
    assert listed.counts([store.id]) == {store.id: Counts(in_progress=1)}
    assert listed.claim("w") is not None
    assert commit(store, file, "w")

    listed.add(store.id, [Entry(file)])
    assert state(listed, store, file).attributes == {"a": 2}
    listed.add(store.id, [Entry(file, {"b": "x"})])
    with pytest.raises(AlreadyThere, match="chunks of another size"):
        listed.add(store.id, [Entry(file, {"c": 1}, chunk_tokens=50)])

    again = state(listed, store, file)
    assert (again.status, again.attributes, again.chunk_tokens) == ("completed", {"b": "x"}, None)
    assert listed.claim("w") is None
    listed.set_attributes(store.id, file, {})
    assert listed.attributes(store.id) == {file: {}}


def test_a_failed_file_is_tried_again(db: Database, listed: StoreFiles, store: Store) -> None:
    (file,) = add_rows(db, 1)
    listed.add(store.id, [Entry(file)])
    claimed = listed.claim("w")
    assert claimed is not None
    listed.fail(claimed[0], "invalid_file", "It is damaged.")
    failed = state(listed, store, file)
    assert (failed.status, failed.error_code) == ("failed", "invalid_file")
    assert (failed.error_message, failed.worker) == ("It is damaged.", None)
    assert listed.claim("w") is None

    listed.add(store.id, [Entry(file, chunk_tokens=64)])

    again = state(listed, store, file)
    assert (again.status, again.error_code, again.error_message) == ("in_progress", None, None)
    assert again.chunk_tokens == 64
    assert listed.claim("w") is not None


def test_what_is_not_there_cannot_be_put_in(db: Database, listed: StoreFiles, store: Store) -> None:
    (file,) = add_rows(db, 1)
    with pytest.raises(UnknownFile, match="nothing was put in"):
        listed.add(store.id, [Entry(file), Entry("file-none")])
    with pytest.raises(UnknownFile, match="nothing was put in"):
        listed.add("vs_none", [Entry(file)])
    assert count(db, StoreFileRow) == 0


def test_a_store_or_batch_with_a_file_that_is_gone_is_not_made(
    db: Database, listed: StoreFiles, store: Store
) -> None:
    (file,) = add_rows(db, 1)
    gone = [Entry(file), Entry("file-gone")]
    with pytest.raises(UnknownFile, match="nothing was put in"):
        listed.new_batch(store.id, gone)
    with pytest.raises(UnknownFile, match="nothing was put in"):
        VectorStores(db).create(DEFAULT_PROJECT, NewStore(), Maker("e1", DIM, "c1"), gone)
    assert [count(db, table) for table in (FileBatchRow, StoreRow, StoreFileRow)] == [0, 1, 0]


def test_pages_and_counts(db: Database, listed: StoreFiles, store: Store) -> None:
    ids = add_rows(db, 5)
    other = make(db, "other")
    batch = listed.new_batch(store.id)
    listed.add(store.id, [Entry(file) for file in ids[:2]])
    listed.add(store.id, [Entry(file) for file in ids[2:]], batch.id)
    claimed = listed.claim("w")
    assert claimed is not None
    listed.fail(claimed[0], "server_error", "x")
    assert listed.claim("w") is not None
    assert commit(store, ids[1], "w")

    def ids_of(part: Slice, **only: str | None) -> list[str]:
        return [row.file_id for row in listed.page(store.id, part, **only).items]

    assert ids_of(Slice(order="asc")) == ids
    assert ids_of(Slice(2)) == [ids[4], ids[3]]
    assert ids_of(Slice(), status="failed") == [ids[0]]
    assert ids_of(Slice(order="asc"), batch_id=batch.id) == ids[2:]
    # a cursor may have left the status that the list is of
    assert ids_of(Slice(order="asc", after=ids[1]), status="in_progress") == ids[2:]
    with pytest.raises(CursorError):
        ids_of(Slice(after=ids[1]), batch_id=batch.id)
    with pytest.raises(CursorError):
        listed.page(other.id, Slice(after=ids[1]))
    used = used_bytes(new_document("a.txt"))
    counts = listed.counts([store.id, other.id])
    assert counts == {store.id: Counts(3, 1, 1, 0, used), other.id: Counts()}
    assert counts[store.id].total == 5


def test_a_batch_is_given_up_but_for_what_is_done(
    db: Database, listed: StoreFiles, store: Store
) -> None:
    ids = add_rows(db, 3)
    batch = listed.new_batch(store.id)
    listed.add(store.id, [Entry(ids[0])])
    listed.add(store.id, [Entry(file) for file in ids[1:]], batch.id)
    assert listed.claim("w") is not None
    assert commit(store, ids[0], "w")
    assert listed.claim("w") is not None
    assert commit(store, ids[1], "w")
    assert listed.claim("w") is not None  # the last one is in hand

    listed.cancel_batch(batch.id)

    assert not commit(store, ids[2], "w")
    found = listed.batch(store.id, batch.id)
    assert found is not None
    assert found[0].cancelled
    assert found[1] == Counts(completed=1, cancelled=1)
    assert found[1].total == 2
    assert listed.batch(make(db, "other").id, batch.id) is None
    assert listed.batch(store.id, "vsfb_none") is None
    assert len(live(db, store)) == 4
    check_lists_agree(db)
    Catalog(db).delete(store.name)
    assert (count(db, FileBatchRow), count(db, StoreFileRow)) == (0, 0)


# -- workers ---------------------------------------------------------------------------------------


def test_many_workers_never_get_the_same_file(
    db: Database, store: Store, database_url: str
) -> None:
    ids = add_rows(db, 24)
    StoreFiles(db).add(store.id, [Entry(file) for file in ids])
    others = [Database(database_url) for _ in range(2)]
    got: list[list[str]] = [[] for _ in range(4)]
    ready = threading.Barrier(4)

    def work(place: int) -> None:
        mine = StoreFiles(others[place % 2])
        ready.wait(30)
        while claimed := mine.claim(f"w{place}"):
            got[place].append(claimed[1].id)
            mine.fail(claimed[0], "server_error", f"w{place}")

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for other in others:
        other.close()

    assert sorted(file for part in got for file in part) == ids
    assert all(part == sorted(part) for part in got)
    with db.read() as session:
        said = dict(session.execute(select(StoreFileRow.file_id, StoreFileRow.error_message)).all())
    assert said == {file: f"w{place}" for place, part in enumerate(got) for file in part}


def test_a_worker_that_lost_its_claim_changes_nothing(
    db: Database, listed: StoreFiles, store: Store
) -> None:
    (file,) = add_rows(db, 1)
    listed.add(store.id, [Entry(file)])
    slow = listed.claim("slow")
    assert slow is not None
    listed.release(slow[0])
    assert listed.claim("quick") is not None

    listed.fail(slow[0], "server_error", "too late")
    listed.postpone(slow[0], 0)
    assert not commit(store, file, "slow")

    row = state(listed, store, file)
    assert (row.status, row.worker) == ("in_progress", "quick")
    assert commit(store, file, "quick")
    assert not commit(store, file, "quick")
    assert len(live(db, store)) == 2


def test_a_file_put_in_anew_is_not_completed_by_who_had_the_old_one(
    db: Database, listed: StoreFiles, store: Store
) -> None:
    (file,) = add_rows(db, 1)
    listed.add(store.id, [Entry(file, chunk_tokens=100)])
    assert listed.claim("w") is not None
    store.remove_file(file)
    listed.add(store.id, [Entry(file, chunk_tokens=500)])

    assert not commit(store, file, "w")

    claimed = listed.claim("w")
    assert claimed is not None
    assert claimed[0].chunk_tokens == 500


def test_those_put_in_one_by_one_go_first(db: Database, listed: StoreFiles, store: Store) -> None:
    ids = add_rows(db, 4)
    batch = listed.new_batch(store.id)
    listed.add(store.id, [Entry(file) for file in ids[:2]], batch.id)
    listed.add(store.id, [Entry(file) for file in ids[2:]])

    order = [*ids[2:], *ids[:2]]
    assert [row.file_id for row in listed.unfinished()] == order
    claimed = [listed.claim(f"w{number}") for number in range(4)]
    assert [one[1].id for one in claimed if one] == order
    assert listed.claim("w") is None


def test_one_file_is_given_up(db: Database, listed: StoreFiles, store: Store) -> None:
    ids = add_rows(db, 2)
    listed.add(store.id, [Entry(file) for file in ids])
    claimed = listed.claim("w")
    assert claimed is not None

    assert listed.cancel(store.id, ids[0])
    assert not listed.cancel(store.id, ids[0])
    assert not commit(store, ids[0], "w")

    assert state(listed, store, ids[0]).status == "cancelled"
    assert state(listed, store, ids[1]).status == "in_progress"


def test_files_are_given_back(db: Database, listed: StoreFiles, store: Store) -> None:
    ids = add_rows(db, 2)
    listed.add(store.id, [Entry(file) for file in ids])
    first = listed.claim("w")
    assert first is not None
    listed.postpone(first[0], 1000)
    second = listed.claim("w")
    assert second is not None
    assert second[1].id == ids[1]

    listed.release(second[0])

    third = listed.claim("other")
    assert third is not None
    assert third[1].id == ids[1]
    assert listed.claim("x") is None  # the first one waits until its time has come


@pytest.mark.parametrize("how", ["failed", "cancelled", "taken out", "file deleted"])
def test_what_is_given_up_while_it_is_ingested_leaves_nothing(
    db: Database, files: Files, listed: StoreFiles, store: Store, how: str
) -> None:
    file = add_file(files, b"x")
    batch = listed.new_batch(store.id)
    listed.add(store.id, [Entry(file.id)], batch.id)
    claimed = listed.claim("w")
    assert claimed is not None
    if how == "failed":
        listed.fail(claimed[0], "server_error", "x")
    elif how == "cancelled":
        listed.cancel_batch(batch.id)
    else:
        store.remove_file(file.id)
    if how == "file deleted":
        files.delete(file.id)

    assert not commit(store, file.id, "w")

    assert (count(db, DocumentRow), live(db, store), store.seq()) == (0, set(), 0)


def test_a_store_deleted_while_it_is_ingested_leaves_nothing(
    db: Database, listed: StoreFiles, store: Store
) -> None:
    (file,) = add_rows(db, 1)
    listed.add(store.id, [Entry(file)])
    assert listed.claim("w") is not None
    VectorStores(db).delete(store.id)

    with pytest.raises(UnknownStore, match="has been deleted"):
        commit(store, file, "w")
    with pytest.raises(UnknownStore, match="has been deleted"):
        store.remove_file(file)

    check_nothing_is_left(db, files=1)
    assert listed.waiting() == 0


# -- files that came from folders ------------------------------------------------------------------


def test_documents_from_folders_are_listed(db: Database, listed: StoreFiles, store: Store) -> None:
    store.commit([new_document("a.md"), new_document("b.md", version=2)])

    infos = {info.name: info for info in store.documents()}
    page = Files(db, Blobs(Path("unused"))).page(DEFAULT_PROJECT, Slice())

    assert {row.id: (row.filename, row.bytes, row.kept) for row in page.items} == {
        infos["a.md"].file_id: ("a.md", 10, False),
        infos["b.md"].file_id: ("b.md", 20, False),
    }
    assert {row.media_type for row in page.items} == {"text/markdown"}
    assert listed.counts([store.id])[store.id].completed == 2
    check_lists_agree(db)


def test_a_new_version_keeps_its_file(db: Database, listed: StoreFiles, store: Store) -> None:
    store.commit([new_document("a.md", 1)])
    (before,) = store.documents()
    listed.set_attributes(store.id, before.file_id, {"lang": "zh"})

    store.commit([new_document("a.md", 2, chunks=5)])

    (after,) = store.documents()
    assert after.file_id == before.file_id
    row = state(listed, store, after.file_id)
    assert (row.status, row.attributes) == ("completed", {"lang": "zh"})
    assert row.usage_bytes == used_bytes(new_document("a.md", 2, chunks=5))
    with db.read() as session:
        file = session.get(FileRow, after.file_id)
        assert file is not None
        assert (file.bytes, file.sha256) == (after.size, after.sha256)
    check_lists_agree(db)


@pytest.mark.parametrize("how", ["delete", "remove_file", "catalog", "vector stores"])
def test_deleting_leaves_no_rows_behind(db: Database, store: Store, how: str) -> None:
    other = make(db, "other")
    other.commit([new_document("a.md")])
    store.commit([new_document("a.md"), new_document("b.md")])
    store.commit([new_document("a.md", 2)])
    ids = [info.file_id for info in store.documents()]

    if how == "delete":
        store.delete(["a.md", "b.md"])
    elif how == "remove_file":
        assert all(store.remove_file(file) for file in ids)
    elif how == "catalog":
        Catalog(db).delete(store.name)
    else:
        VectorStores(db).delete(store.id)

    assert (count(db, FileRow), count(db, StoreFileRow), count(db, DocumentRow)) == (1, 1, 1)
    check_lists_agree(db)
    other.delete(["a.md"])
    check_nothing_is_left(db)


def test_a_file_name_in_a_store_gives_way_to_one_that_is_there(
    db: Database, files: Files, listed: StoreFiles, store: Store
) -> None:
    store.commit([new_document("a.txt")])
    for content in (b"x", b"y"):
        with files.blobs.receive() as incoming:
            incoming.write(content)
            file = files.add(new_file(name="a.txt"), incoming)
        listed.add(store.id, [Entry(file.id)])
        assert listed.claim("w") is not None
        assert commit(store, file.id, "w")

    assert [info.name for info in store.documents()] == ["a (2).txt", "a (3).txt", "a.txt"]
    assert store.delete(["a (2).txt"]) == 2  # an uploaded file stays, outside the store
    assert count(db, FileRow) == 3
    check_lists_agree(db)
