"""Uploaded files are ingested, found, refused, tried again; a killed process loses none."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_samples import check_lists_agree, count
from sqlalchemy import update
from upload_bench import Bench, moved, wait_until

from ingest.job import delete_store, ingest_paths, reindex_store
from ingest.job_list import progress_of
from ingest.spool import spools
from rag.errors import ModelError, UnknownStore
from rag.store.service_tables import StoreFileRow
from rag.store.store_files import Entry
from rag.store.tables import DEFAULT_PROJECT, ChunkRow, DocumentRow
from rag.testing import FakeEmbedder

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Iterator[Bench]:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    made = Bench(tmp_path / "home")
    yield made
    made.rag.db.close()


# -- one file --------------------------------------------------------------------------------------


def test_a_file_is_completed_and_found(bench: Bench) -> None:
    store = bench.store()
    file = bench.put(store, "The pump needs oil every month.", "泵 手册.md")

    assert bench.work.run_once()
    assert not bench.work.run_once()

    row = bench.state(store, file)
    assert (row.status, row.error_code, row.error_message) == ("completed", None, None)
    assert row.usage_bytes == len("The pump needs oil every month.") + 2 * 64
    assert bench.reports == [(store.id, file, "completed", "")]
    (hit,) = bench.opened.get(store).search("Which month does the pump need oil?")
    assert (hit.chunk.file, hit.chunk.file_id) == ("泵 手册.md", file)
    (info,) = store.documents()
    assert (info.source, info.root, info.file_id) == (file, "", file)
    check_lists_agree(bench.rag.db)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.exe", b"MZ\x90", "unsupported_file"),
        ("no suffix", b"text", "unsupported_file"),
        ("a.txt", b"\x00\x01\x02\xff" * 99, "invalid_file"),
        ("a.txt", b"", "invalid_file"),
        ("a.md", b" \n\n \t", "invalid_file"),
        ("../../etc/a.docx", b"PK\x03\x04 not really", "invalid_file"),
    ],
)
def test_a_bad_file_says_why_and_not_where(
    bench: Bench, tmp_path: Path, name: str, content: bytes, code: str
) -> None:
    store = bench.store()
    file = bench.put(store, content, name)

    assert bench.work.run_once()

    row = bench.state(store, file)
    assert (row.status, row.error_code, row.worker) == ("failed", code, None)
    assert row.error_message
    assert str(tmp_path) not in row.error_message
    assert "/" not in row.error_message
    assert "\n" not in row.error_message
    assert bench.reports == [(store.id, file, "failed", row.error_message)]
    db = bench.rag.db
    assert (count(db, DocumentRow), count(db, ChunkRow), count(db, StoreFileRow)) == (0, 0, 1)
    assert bench.listed.claim("w") is None


def test_an_unexpected_fault_harms_no_other_file(bench: Bench, tmp_path: Path) -> None:
    store = bench.store()

    def explode() -> None:
        raise ZeroDivisionError(f"in {tmp_path}")

    moved(bench)["dynamite"] = explode
    bad = bench.put(store, "This holds dynamite.")
    good = bench.put(store, "This holds oil.")

    bench.drain()

    row = bench.state(store, bad)
    assert (row.status, row.error_code) == ("failed", "server_error")
    assert row.error_message == "The file could not be ingested: an unexpected ZeroDivisionError."
    assert bench.state(store, good).status == "completed"
    assert bench.found(store, "holds") == [good]
    assert [(file, status) for _, file, status, _ in bench.reports] == [
        (bad, "failed"),
        (good, "completed"),
    ]


def test_a_fault_of_the_machine_leaves_the_file_waiting(bench: Bench) -> None:
    store = bench.store()

    def fail() -> None:
        raise ModelError("The model is missing.", do="Get it.")

    moved(bench)["oil"] = fail
    file = bench.put(store, "The pump needs oil.")
    root = bench.rag.settings.jobs_folder

    for wait in (5, 10, 20):
        bench.drain()
        row = bench.state(store, file)
        assert (row.status, row.error_code, row.worker) == ("in_progress", None, None)
        assert wait - 2 < row.worker_until - time.time() <= wait
        (progress,) = progress_of(root, [row]).values()
        assert progress.phase == "waiting"
        assert "model is missing" in str(progress.reason)
        with bench.rag.db.write() as session:  # they go by
            session.execute(update(StoreFileRow).values(worker_until=0))
    assert [status for _, _, status, _ in bench.reports] == ["waiting"] * 3
    assert "model is missing" in bench.reports[0][3]

    moved(bench).clear()
    bench.drain()
    assert bench.state(store, file).status == "completed"
    assert list(spools(root)) == []


@pytest.mark.parametrize("how", ["lost", "damaged"])
def test_a_file_whose_bytes_are_gone_fails_and_says_so(bench: Bench, how: str) -> None:
    store = bench.store()
    bad = bench.put(store, "Its bytes are gone.")
    good = bench.put(store, "The pump needs oil.")
    path = bench.blobs.path(_sha256(bench, bad))
    if how == "lost":
        path.unlink()
    else:
        path.write_bytes(b"others")

    bench.drain()

    row = bench.state(store, bad)
    assert (row.status, row.error_code) == ("failed", "server_error")
    assert row.error_message == f"Its bytes are {how} on the server. Upload the file again."
    assert bench.state(store, good).status == "completed"


def test_all_blobs_gone_at_once_is_a_fault_of_the_machine(bench: Bench) -> None:
    store = bench.store()
    file = bench.put(store, "The pump needs oil.")
    aside = bench.blobs._folder.rename(bench.blobs._folder.with_name("unmounted"))

    bench.drain()
    assert bench.state(store, file).status == "in_progress"

    aside.rename(bench.blobs._folder)
    with bench.rag.db.write() as session:
        session.execute(update(StoreFileRow).values(worker_until=0))
    bench.drain()
    assert bench.state(store, file).status == "completed"


def _sha256(bench: Bench, file_id: str) -> str:
    row = bench.files.get(DEFAULT_PROJECT, file_id)
    assert row is not None
    return row.sha256


def test_a_parser_that_cannot_be_started_leaves_the_file_waiting(bench: Bench) -> None:
    from ingest.fence import ParserPool

    store = bench.store()
    file = bench.put(store, "The pump needs oil.")

    with ParserPool(command=[sys.executable, "-c", "raise SystemExit('no room')"]) as pool:
        assert bench.work.next(pool)

    row = bench.state(store, file)
    assert (row.status, row.error_code) == ("in_progress", None)
    assert "did not start: no room" in bench.reports[0][3]


def test_another_embedder_fails_the_file_and_says_what_to_do(bench: Bench, tmp_path: Path) -> None:
    store = bench.store()
    file = bench.put(store, "The pump needs oil.")
    other = Bench(tmp_path / "home", FakeEmbedder(name="other"))

    other.drain()

    row = bench.state(store, file)
    assert (row.status, row.error_code) == ("failed", "server_error")
    assert "youju reindex" in (row.error_message or "")
    other.rag.db.close()


def test_another_chunker_fails_the_file_and_names_both(bench: Bench, tmp_path: Path) -> None:
    store = bench.store()
    before = bench.put(store, "The pump needs oil.")
    assert bench.drain()
    file = bench.put(store, "The valve is blue.")
    own = bench.put(store, "The hose is green.", chunk_tokens=20)
    other = Bench(tmp_path / "home", chunk_tokens=60, chunk_overlap=0)

    other.drain()

    row = bench.state(store, file)
    assert (row.status, row.error_code) == ("failed", "server_error")
    for told in (store.chunker, "max=60 overlap=0", "youju reindex --store s"):
        assert told in (row.error_message or "")
    assert bench.state(store, own).status == "completed", "it says itself how it is cut"
    assert other.found(store, "pump") == [before]

    reindex_store(other.rag, "s")
    again = other.put(store, "The valve is blue.")
    other.drain()
    assert bench.state(store, again).status == "completed"
    other.rag.db.close()


def test_a_store_cut_by_an_older_version_takes_no_file(bench: Bench) -> None:
    store = bench.store()
    chunker = store.chunker.replace("passages-2", "passages-1")
    bench.stores.change(store.id, {"chunker": chunker})
    file = bench.put(store, "The hose is green.", chunk_tokens=20)

    bench.drain()

    assert chunker in (bench.state(store, file).error_message or "")


def test_a_file_of_a_folder_cannot_be_put_into_another_store(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The pump needs oil.")
    ingest_paths(bench.rag, "folder", [tmp_path / "a.txt"])
    (info,) = bench.rag.catalog.get("folder").documents()
    store = bench.store("other")
    bench.listed.add(store.id, [Entry(info.file_id)])

    bench.drain()

    row = bench.state(store, info.file_id)
    assert (row.status, row.error_code) == ("failed", "unsupported_file")
    assert "Upload the file" in (row.error_message or "")


# -- meanwhile -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["store deleted", "taken out", "file deleted", "cancelled"])
def test_what_is_given_up_while_it_is_ingested_leaves_nothing(bench: Bench, how: str) -> None:
    store = bench.store()
    file = bench.put(store, "The pump needs oil.")
    batch = bench.listed.new_batch(store.id)
    if how == "cancelled":
        bench.listed.add(store.id, [Entry(file)], batch.id)

    def act() -> None:
        if how == "store deleted":
            bench.stores.delete(store.id)
            bench.opened.drop(store.id)
        elif how == "cancelled":
            bench.listed.cancel_batch(batch.id)
        else:
            store.remove_file(file)
        if how == "file deleted":
            assert bench.files.delete(file)

    moved(bench)["oil"] = act
    other = bench.store("other")
    last = bench.put(other, "The valve is blue.")

    bench.drain()

    assert list(spools(bench.rag.settings.jobs_folder)) == []
    assert {(entry, status) for _, entry, status, _ in bench.reports} == {
        (file, "cancelled"),
        (last, "completed"),
    }
    assert count(bench.rag.db, DocumentRow) == 1
    assert bench.found(other, "valve") == [last]
    check_lists_agree(bench.rag.db)


def test_a_store_deleted_by_another_process_does_not_end_the_work(bench: Bench) -> None:
    gone, stays = bench.store("gone"), bench.store("stays")
    bench.work.start()
    try:
        bench.put(gone, "The pump needs oil.")
        bench.work.ring()
        wait_until(lambda: len(bench.reports) == 1)
        bench.opened.get(gone)
        delete_store(bench.rag, "gone")
        time.sleep(0.7)  # it looks for work twice, and saves what it has open
        second = bench.put(stays, "The valve is blue.")
        bench.work.ring()
        wait_until(lambda: len(bench.reports) == 2)
    finally:
        bench.work.close()

    assert bench.reports[1] == (stays.id, second, "completed", "")
    assert bench.found(stays, "valve") == [second]
    assert bench.listed.waiting() == 0
    with pytest.raises(UnknownStore):
        bench.found(gone, "pump")


def test_two_processes_share_the_work(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path / "home")
    store = bench.store()
    ids = [bench.put(store, f"Valve {number} is blue.") for number in range(8)]
    for each in (bench, other):
        each.work.start()
    try:
        wait_until(lambda: bench.listed.waiting() == 0)
    finally:
        for each in (bench, other):
            each.work.close()

    reports = bench.reports + other.reports
    assert sorted(file for _, file, _, _ in reports) == ids
    assert {status for _, _, status, _ in reports} == {"completed"}
    assert sorted(bench.found(store, "valve")) == ids
    check_lists_agree(bench.rag.db)
    other.rag.db.close()


@pytest.mark.parametrize("back_s", [3600, 10 * 365 * 86_400])
def test_a_file_that_waits_goes_on_though_the_clock_is_put_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, back_s: int
) -> None:
    store = bench.store()
    file = bench.put(store, "The heron is grey.")
    claimed = bench.listed.claim("worker-1.a")
    assert claimed is not None
    bench.listed.postpone(claimed[0], 300)
    assert bench.listed.claim("worker-1.b") is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - back_s)
    assert bench.drain()
    assert bench.state(store, file).status == "completed"
