"""Uploaded files are ingested, found, refused, tried again; a killed process loses none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from service_samples import add_file, check_lists_agree, check_nothing_is_left, count
from sqlalchemy import text

from ingest.job import (
    delete_files,
    delete_store,
    ingest_paths,
    make_chunker,
    make_parsers,
    reindex_store,
)
from ingest.uploaded import UploadIngestion
from rag.build import Rag
from rag.config import Settings
from rag.errors import ModelError, UnknownStore
from rag.opened import OpenStores
from rag.schema import FloatArray
from rag.store.blobs import Blobs
from rag.store.corpus import Store
from rag.store.files import Files
from rag.store.service_tables import FileRow, StoreFileRow
from rag.store.store_files import Entry, StoreFiles
from rag.store.tables import DEFAULT_PROJECT, ChunkRow, DocumentRow
from rag.store.vector_stores import Maker, NewStore, VectorStores
from rag.testing import FakeEmbedder

PROJECT = Path(__file__).resolve().parents[1]


class Moved(FakeEmbedder):
    """Does something before it embeds a text that holds a word."""

    def __init__(self, name: str = "fake") -> None:
        super().__init__(name=name)
        self.at: dict[str, Callable[[], object]] = {}

    def encode_passages(self, texts: list[str]) -> FloatArray:  # type: ignore[override]
        for word, act in self.at.items():
            if any(word in text for text in texts):
                act()
        return super().encode_passages(texts)


class Bench:
    """Everything that takes part, over a home folder."""

    def __init__(self, home: Path, embedder: FakeEmbedder | None = None, **settings: Any) -> None:
        self.rag = Rag(Settings(home=home, **settings))
        self.embedder = embedder or Moved()
        self.rag.embedder = cast(Any, self.embedder)
        self.blobs = Blobs(home / "blobs")
        self.files = Files(self.rag.db, self.blobs)
        self.stores = VectorStores(self.rag.db)
        self.listed = StoreFiles(self.rag.db)
        self.opened = OpenStores(self.rag)
        self.reports: list[tuple[str, str, str, str]] = []
        self.work = UploadIngestion(self.rag, self.opened, self.blobs, report=self._report)

    def _report(self, store: str, file: str, status: str, seconds: float, message: str) -> None:
        assert seconds >= 0
        self.reports.append((store, file, status, message))

    def store(self, title: str = "s") -> Store:
        chunker = make_chunker(self.rag).fingerprint
        maker = Maker(self.embedder.fingerprint, self.embedder.dim, chunker)
        row = self.stores.create(DEFAULT_PROJECT, NewStore(title=title), maker)
        return self.stores.open(row)

    def put(self, store: Store, content: str | bytes, name: str = "a.txt", **sizes: int) -> str:
        """Upload a file and put it into a store; return its id."""
        data = content.encode() if isinstance(content, str) else content
        file = add_file(self.files, data, name=name)
        self.listed.add(store.id, [Entry(file.id, **sizes)])
        return file.id

    def drain(self) -> None:
        """Ingest everything that waits, with one parser."""
        with make_parsers(self.rag) as pool:
            while self.work._next(pool):
                pass

    def state(self, store: Store, file_id: str) -> StoreFileRow:
        row = self.listed.get(store.id, file_id)
        assert row is not None
        return row

    def found(self, store: Store, query: str) -> list[str]:
        """Ids of the files whose passages are found by words, best first."""
        index = self.opened.get(store).lexical.refresh()
        ids = [hit for hit, _ in index.search([query], 10)[0]]
        chunks = store.chunks(ids)
        return [chunks[hit].file_id for hit in ids]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "home")
    yield made
    made.rag.db.close()


def moved(bench: Bench) -> dict[str, Callable[[], object]]:
    assert isinstance(bench.embedder, Moved)
    return bench.embedder.at


def wait_until(what: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


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
    assert bench.listed.claim("w", 20) is None


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
    lost = bench.put(store, "Its bytes are gone.")
    kept = bench.blobs.path(_sha256(bench, lost)).rename(bench.blobs._folder / "aside")

    bench.drain()

    for waiting in (file, lost):
        row = bench.state(store, waiting)
        assert (row.status, row.error_code, row.worker) == ("in_progress", None, None)
        assert time.time() < row.worker_until <= time.time() + 10
    assert [status for _, _, status, _ in bench.reports] == ["waiting", "waiting"]
    assert "model is missing" in bench.reports[0][3]

    moved(bench).clear()
    kept.rename(bench.blobs.path(_sha256(bench, lost)))
    with bench.rag.db.write() as session:  # ten seconds go by
        session.execute(text("UPDATE store_files SET worker_until = 0"))
    bench.drain()
    assert [bench.state(store, done).status for done in (file, lost)] == ["completed"] * 2


def _sha256(bench: Bench, file_id: str) -> str:
    row = bench.files.get(DEFAULT_PROJECT, file_id)
    assert row is not None
    return row.sha256


def test_a_parser_that_cannot_be_started_leaves_the_file_waiting(bench: Bench) -> None:
    from ingest.fence import ParserPool

    store = bench.store()
    file = bench.put(store, "The pump needs oil.")

    with ParserPool(command=[sys.executable, "-c", "raise SystemExit('no room')"]) as pool:
        assert bench.work._next(pool)

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

    assert [(entry, status) for _, entry, status, _ in bench.reports] == [
        (file, "cancelled"),
        (last, "completed"),
    ]
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


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import ingest.uploaded
from test_ingest_uploaded import Bench, Moved

def sleep():
    print("embedding", flush=True)
    time.sleep(120)

ingest.uploaded.CLAIM_S = 1
embedder = Moved()
embedder.at["oil"] = sleep
bench = Bench(Path({home!r}), embedder)
bench.work.start()
time.sleep(120)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
def test_a_killed_process_loses_nothing(bench: Bench, tmp_path: Path) -> None:
    store = bench.store()
    ids = [
        bench.put(store, content)
        for content in ("The valve is blue.", "The pump needs oil.", "The seal is red.")
    ]
    code = KILLED.format(tests=str(PROJECT / "tests"), home=str(tmp_path / "home"))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"embedding\n"
    assert bench.state(store, ids[0]).status == "completed"
    time.sleep(1.5)  # longer than its claim, which it keeps
    assert bench.listed.claim("early", 0) is not None  # the third
    row = bench.state(store, ids[1])
    assert (row.status, row.worker is not None) == ("in_progress", True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()

    wait_until(lambda: bool(bench.drain()) or bench.listed.waiting() == 0)

    assert [bench.state(store, file).status for file in ids] == ["completed"] * 3
    for word, file in zip(("valve", "pump", "seal"), ids, strict=True):
        assert bench.found(store, word) == [file]
    assert count(bench.rag.db, DocumentRow) == 3
    check_lists_agree(bench.rag.db)


def test_closing_gives_back_what_is_in_hand(bench: Bench) -> None:
    store = bench.store()
    go_on, started = threading.Event(), threading.Event()

    def hang() -> None:
        started.set()
        go_on.wait(60)

    moved(bench)["oil"] = hang
    file = bench.put(store, "The pump needs oil.")
    bench.work.start()
    assert started.wait(60)

    bench.work.close(timeout_s=0.05)

    row = bench.state(store, file)
    assert (row.status, row.worker, row.worker_until) == ("in_progress", None, 0)
    assert bench.listed.claim("next", 20) is not None
    go_on.set()
    wait_until(lambda: bool(bench.reports))
    assert bench.reports == [(store.id, file, "cancelled", "")]  # the next one has it
    assert store.documents() == []


# -- sizes of chunks, and embedding anew -----------------------------------------------------------

LONG = " ".join(f"Valve {n} opens at {n} bar and closes at {n + 1} bar." for n in range(30))


def chunks_of(store: Store) -> dict[str, int]:
    return {info.file_id: info.chunks for info in store.documents()}


def test_reindexing_keeps_files_and_their_own_chunk_sizes(bench: Bench, tmp_path: Path) -> None:
    store = bench.store("valves")
    plain = bench.put(store, LONG, "plain.txt")
    small = bench.put(store, LONG, "small.txt", chunk_tokens=20, chunk_overlap=0)
    overlapping = bench.put(store, LONG, "over.txt", chunk_tokens=40, chunk_overlap=20)
    waiting = bench.put(store, b"", "bad.txt")
    bench.drain()
    (tmp_path / "folder.txt").write_text(LONG)
    ingest_paths(bench.rag, "valves", [tmp_path / "folder.txt"])
    before = chunks_of(store)
    assert before[small] == 30
    assert before[overlapping] > 30 * 10 / 40 > before[plain]
    bench.listed.set_attributes(store.id, plain, {"year": 2024})
    places = {info.file_id: bench.state(store, info.file_id) for info in store.documents()}

    other = Bench(tmp_path / "home", Moved("other"), chunk_tokens=60, chunk_overlap=0)
    reindex_store(other.rag, "valves")

    after = chunks_of(other.stores.open(_row(other, store)))
    assert after.keys() == before.keys()
    assert {file: after[file] for file in (small, overlapping)} == {
        file: before[file] for file in (small, overlapping)
    }
    assert after[plain] > before[plain]
    assert count(other.rag.db, FileRow) == 5
    assert bench.state(store, waiting).status == "failed"
    for file, old in places.items():
        new = other.state(store, file)
        assert (new.status, new.attributes, new.created_at) == (
            "completed",
            old.attributes,
            old.created_at,
        )
        assert (new.chunk_tokens, new.chunk_overlap) == (old.chunk_tokens, old.chunk_overlap)
    assert other.state(store, plain).usage_bytes > places[plain].usage_bytes
    assert other.state(store, small).usage_bytes == places[small].usage_bytes
    check_lists_agree(other.rag.db)
    assert small in other.found(other.stores.open(_row(other, store)), "valve 7")
    other.rag.db.close()


def _row(bench: Bench, store: Store) -> Any:
    row = bench.stores.find(store.id)
    assert row is not None
    return row


def test_a_store_embedded_anew_by_another_process_is_opened_anew(
    bench: Bench, tmp_path: Path
) -> None:
    store = bench.store()
    bench.put(store, "The pump needs oil.")
    bench.drain()
    first = bench.opened.get(store)
    first.dense.refresh()
    assert bench.opened.get(store) is first

    other = Bench(tmp_path / "home", FakeEmbedder(name="other"))
    reindex_store(other.rag, "s")
    bench.opened.save()

    anew = bench.opened.get(bench.stores.open(_row(bench, store)))
    assert anew is not first
    assert anew.store.embedder == "other:64"
    other.rag.db.close()


def test_few_stores_are_kept_open(bench: Bench) -> None:
    opened = OpenStores(bench.rag, most=2)
    stores = [bench.store(f"s{number}") for number in range(3)]
    first, second = opened.get(stores[0]), opened.get(stores[1])
    assert opened.get(stores[0]) is first
    third = opened.get(stores[2])
    assert opened.get(stores[0]) is first
    assert opened.get(stores[2]) is third
    assert opened.get(stores[1]) is not second
    opened.drop(stores[1].id)
    opened.drop("vs_none")
    opened.save()


# -- the command line's verbs ----------------------------------------------------------------------


def test_deleting_and_pruning_leave_no_rows_behind(bench: Bench, tmp_path: Path) -> None:
    db, folder = bench.rag.db, tmp_path / "docs"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.txt").write_text(f"Valve {name} is blue.")
    ingest_paths(bench.rag, "cli", [folder])
    assert count(db, FileRow) == count(db, StoreFileRow) == 3
    (folder / "b.txt").write_text("Valve b is red.")
    (folder / "c.txt").unlink()

    report = ingest_paths(bench.rag, "cli", [folder], prune=True)

    assert report.pruned == ("c.txt",)
    assert count(db, FileRow) == count(db, StoreFileRow) == 2
    check_lists_agree(db)
    assert delete_files(bench.rag, "cli", ["a.txt"]) == 1
    assert count(db, FileRow) == count(db, StoreFileRow) == 1
    uploaded = bench.put(bench.rag.catalog.get("cli"), "An uploaded valve.")
    bench.drain()
    check_lists_agree(db)
    assert delete_store(bench.rag, "cli") == 2
    check_nothing_is_left(db, files=1)
    assert bench.files.delete(uploaded)
    check_nothing_is_left(db)
