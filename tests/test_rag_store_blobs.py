"""Uploaded files: their bytes on disk, once for equal ones; how much room a project has."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import NewDatabase
from service_samples import add_file, at_once, count, new_file, new_project, on_disk
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from rag.errors import QuotaError, StorageError
from rag.store.blobs import Blobs
from rag.store.database import Database
from rag.store.files import Files, Swept, has_expired
from rag.store.service_tables import FileRow
from rag.store.store_files import Entry, StoreFiles
from rag.store.tables import DEFAULT_PROJECT
from rag.store.vector_stores import Maker, NewStore, VectorStores

CONTENTS = (b"", b"a", "中文".encode(), b"\x00" * 3_000_000)


@pytest.fixture
def files(db: Database, tmp_path: Path) -> Files:
    return Files(db, Blobs(tmp_path / "blobs"))


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase) -> Iterator[Files]:
    folder = tmp_path_factory.mktemp("blobs")
    db = Database(new_database(folder))
    yield Files(db, Blobs(folder / "blobs"))
    db.close()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob_name(content: bytes) -> str:
    return f"{digest(content)[:2]}/{digest(content)}"


# -- bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", CONTENTS)
def test_what_arrives_is_kept(files: Files, tmp_path: Path, content: bytes) -> None:
    with files.blobs.receive() as incoming:
        for begin in range(0, len(content), 1_000_000):
            incoming.write(content[begin : begin + 1_000_000])
        row = files.add(new_file(name="../../etc/手册.txt"), incoming)

    found = files.get(DEFAULT_PROJECT, row.id)
    assert found is not None
    assert (found.bytes, found.sha256, found.kept) == (len(content), digest(content), True)
    assert found.filename == "../../etc/手册.txt"
    assert files.blobs.read(found.sha256) == content
    assert on_disk(tmp_path / "blobs") == {blob_name(content)}


step = st.tuples(
    st.sampled_from(["add", "delete", "abandon", "refuse"]), st.integers(0, len(CONTENTS) - 2)
)


@settings(deadline=None, max_examples=15)
@given(steps=st.lists(step, max_size=12))
def test_no_file_without_its_bytes_and_no_bytes_without_a_file(
    lasting: Files, steps: list[tuple[str, int]]
) -> None:
    files, folder = lasting, lasting.blobs._folder
    held: list[tuple[str, bytes]] = []
    try:
        for action, which in steps:
            content = CONTENTS[which]
            if action == "add":
                held.append((add_file(files, content).id, content))
            elif action == "delete" and held:
                file_id, _ = held.pop(which % len(held))
                assert files.delete(file_id)
                assert files.get(DEFAULT_PROJECT, file_id) is None
            elif action == "abandon":
                with files.blobs.receive() as incoming:
                    incoming.write(content)
            elif action == "refuse":
                with pytest.raises(IntegrityError):
                    add_file(files, content, project="proj_that_is_not")
            for file_id, content in held:
                row = files.get(DEFAULT_PROJECT, file_id)
                assert row is not None
                assert files.blobs.read(row.sha256) == content
            assert on_disk(folder) == {blob_name(content) for _, content in held}
    finally:
        for file_id, _ in held:
            files.delete(file_id)
    assert on_disk(folder) == set()


def test_equal_files_come_and_go_in_many_threads(files: Files, tmp_path: Path) -> None:
    def come_and_go(stay: bool) -> str:
        ids = [add_file(files, b"same").id for _ in range(3)]
        for file_id in ids[stay:]:
            files.delete(file_id)
        return ids[0] if stay else ""

    at_once([lambda n=n: come_and_go(n == 3) for n in range(4)])  # type: ignore[misc]

    assert count(files._db, FileRow) == 1
    assert files.blobs.read(digest(b"same")) == b"same"
    assert on_disk(tmp_path / "blobs") == {blob_name(b"same")}


@pytest.mark.parametrize("damage", [b"", b"secre", b"secret!", b"Secret"])
def test_a_damaged_file_is_said_not_given(files: Files, damage: bytes) -> None:
    row = add_file(files, b"secret")
    files.blobs.path(row.sha256).write_bytes(damage)

    with pytest.raises(StorageError, match=r"is damaged\. Restore it from a backup"):
        files.blobs.read(row.sha256)

    add_file(files, b"secret")  # the same bytes again heal it
    assert files.blobs.read(row.sha256) == b"secret"


def test_a_missing_file_is_said(files: Files) -> None:
    row = add_file(files, b"secret")
    files.blobs.path(row.sha256).unlink()

    with pytest.raises(StorageError, match="No such file"):
        files.blobs.read(row.sha256)
    assert files.delete(row.id)


def test_a_folder_that_cannot_be_written_is_said(files: Files, tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("in the way")

    with pytest.raises(StorageError, match="blobs"):
        files.blobs.receive()


def test_what_was_left_behind_is_swept_after_an_hour(files: Files, tmp_path: Path) -> None:
    kept = add_file(files, b"kept")
    for name in ("old", "wanted", "new"):
        files.blobs.receive(name).finish()
    for name in ("old", "wanted"):
        _age(files.blobs.arrived(name))

    assert files.blobs.sweep(["wanted"]) == 1

    assert on_disk(tmp_path / "blobs") == {
        "incoming/wanted",
        "incoming/new",
        blob_name(b"kept"),
    }
    assert files.blobs.read(kept.sha256) == b"kept"
    assert Blobs(tmp_path / "never made").sweep() == 0


def _age(path: Path) -> None:
    """Have a file be an hour old."""
    moment = time.time() - 3700
    os.utime(path, (moment, moment))


def _orphan(files: Files, content: bytes, *, old: bool = True) -> str:
    """Leave a blob behind as a crash does before the database has its file; return its digest."""
    with files.blobs.receive() as incoming:
        incoming.write(content)
        name = incoming.finish()
        with files.blobs.exclusive():
            files.blobs.keep(incoming, name)
    if old:
        _age(files.blobs.path(name))
    return name


def test_blobs_without_a_file_are_swept_after_an_hour(files: Files, tmp_path: Path) -> None:
    held = [add_file(files, content) for content in (b"1", b"2", b"2")]
    for row in held:
        _age(files.blobs.path(row.sha256))
    _orphan(files, b"left")
    _orphan(files, b"new", old=False)
    (tmp_path / "blobs/aa").mkdir()
    (tmp_path / "blobs/aa/README").write_text("not ours")
    _age(tmp_path / "blobs/aa/README")

    assert files.sweep() == Swept(deleted=1)

    assert on_disk(tmp_path / "blobs") == {
        blob_name(b"1"), blob_name(b"2"), blob_name(b"new"), "aa/README",
    }  # fmt: skip
    assert files.sweep() == Swept()


def test_the_blobs_of_another_database_are_left_alone(files: Files, tmp_path: Path) -> None:
    orphans = {_orphan(files, b"%d" % number) for number in range(3)}
    _age(files.blobs.path(add_file(files, b"known").sha256))

    assert files.sweep() == Swept(left=3)

    assert all(files.blobs.read(digest) for digest in orphans)


def test_bytes_that_arrive_again_while_blobs_are_swept_stay(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    _age(files.blobs.path(add_file(files, b"known").sha256))
    _orphan(files, b"again")
    exclusive = Blobs.exclusive
    once = [b"again"]

    def after_an_upload(blobs: Blobs) -> AbstractContextManager[None]:
        if once:
            row = add_file(files, once.pop())
            _age(files.blobs.path(row.sha256))
        return exclusive(blobs)

    monkeypatch.setattr(Blobs, "exclusive", after_an_upload)
    assert files.sweep() == Swept()
    assert files.blobs.read(digest(b"again")) == b"again"


def test_files_come_and_go_while_blobs_are_swept_all_the_time(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.store.blobs._ABANDONED_S", -60.0)  # everything is old

    def come_and_go() -> None:
        for content in (b"same", b"other") * 8:
            row = add_file(files, content)
            assert files.blobs.read(row.sha256) == content
            files.delete(row.id)

    kept = add_file(files, b"kept")
    results = at_once([come_and_go, come_and_go, *[lambda: [files.sweep() for _ in range(30)]] * 2])

    assert not [result for result in results if isinstance(result, Exception)]
    assert files.blobs.read(kept.sha256) == b"kept"
    assert on_disk(tmp_path / "blobs") == {blob_name(b"kept")}


def test_names_are_brought_to_disk_with_what_they_name(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr("os.fsync", noted)
    row = add_file(files, b"x")
    folder = tmp_path / "blobs"
    blob = files.blobs.path(row.sha256)
    assert {path.stat().st_ino for path in (blob, blob.parent, folder, tmp_path)} <= synced


# -- files -----------------------------------------------------------------------------------------


def test_a_file_expires(files: Files, tmp_path: Path) -> None:
    with files.blobs.receive() as incoming:
        incoming.write(b"x")
        row = files.add(replace(new_file(), expires_after=60), incoming)
    assert row.expires_at == row.created_at + 60
    assert not has_expired(row)
    assert files.expired() == []

    with files._db.write() as session:
        session.execute(update(FileRow).values(expires_at=int(time.time())))

    assert files.get(DEFAULT_PROJECT, row.id) is None
    assert files.expired() == [(DEFAULT_PROJECT, row.id)]
    files.delete(row.id)
    assert on_disk(tmp_path / "blobs") == set()


def test_a_file_that_is_in_a_store_is_not_forgotten(files: Files) -> None:
    db = files._db
    file = add_file(files, b"x")
    stores = VectorStores(db)
    store = stores.create(DEFAULT_PROJECT, NewStore(), Maker("e1", 4, "c1"))
    StoreFiles(db).add(store.id, [Entry(file.id)])

    assert files.stores_of(file.id) == [store.id]
    assert not files.delete(file.id)
    assert files.blobs.read(file.sha256) == b"x"

    assert stores.open(store).remove_file(file.id)
    assert files.stores_of(file.id) == []
    assert files.delete(file.id)
    assert files.delete(file.id)


# -- room ------------------------------------------------------------------------------------------


def test_a_project_has_so_much_room(files: Files, tmp_path: Path) -> None:
    small = Files(files._db, files.blobs, quota=10)
    first = add_file(small, b"123456")
    with pytest.raises(QuotaError, match=r"take 6 bytes; with 5 more .* the 10 allowed"):
        add_file(small, b"12345")
    assert on_disk(tmp_path / "blobs") == {blob_name(b"123456")}

    add_file(small, b"1234")
    add_file(small, b"")
    add_file(small, b"1234567890", project=new_project(files._db))
    with pytest.raises(QuotaError):
        add_file(small, b"1")

    small.delete(first.id)
    add_file(small, b"123456")


def test_many_uploads_at_once_do_not_exceed_it(files: Files, tmp_path: Path) -> None:
    small = Files(files._db, files.blobs, quota=45)

    results = at_once([lambda n=n: add_file(small, b"%010d" % n) for n in range(8)])  # type: ignore[misc]

    kept = [row for row in results if isinstance(row, FileRow)]
    assert len(kept) == 4
    assert sum(isinstance(error, QuotaError) for error in results) == 4
    assert on_disk(tmp_path / "blobs") == {f"{row.sha256[:2]}/{row.sha256}" for row in kept}
