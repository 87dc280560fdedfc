"""Files that arrive in parts: joined, refused, cancelled, expired, completed once only."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from service_samples import add_file, at_once, count, new_file, new_project, on_disk
from sqlalchemy import update

from rag.errors import QuotaError, StorageError, UsageError
from rag.store.blobs import Blobs
from rag.store.database import Database
from rag.store.files import Files
from rag.store.ids import new_id
from rag.store.service_tables import FileRow, UploadRow
from rag.store.tables import DEFAULT_PROJECT
from rag.store.uploads import Uploads, UploadState


@pytest.fixture
def files(db: Database, tmp_path: Path) -> Files:
    return Files(db, Blobs(tmp_path / "blobs"))


@pytest.fixture
def uploads(files: Files) -> Uploads:
    return Uploads(files._db, files)


def send(uploads: Uploads, upload: UploadState, content: bytes) -> str:
    """Send a part; return its id."""
    part_id = new_id("part_")
    with uploads._files.blobs.receive(part_id) as incoming:
        incoming.write(content)
        row = uploads.add_part(upload, part_id, incoming)
    assert (row.id, row.bytes) == (part_id, len(content))
    return part_id


def begun(
    uploads: Uploads, *parts: bytes, size: int | None = None
) -> tuple[UploadState, list[str]]:
    """Announce an upload of the parts' size, or another, and send the parts."""
    announced = sum(map(len, parts)) if size is None else size
    upload = uploads.create(new_file(name="a.txt"), announced)
    return upload, [send(uploads, upload, part) for part in parts]


def again(uploads: Uploads, upload: UploadState) -> UploadState:
    found = uploads.get(DEFAULT_PROJECT, upload.row.id)
    assert found is not None
    return found


def test_parts_are_joined_in_the_order_given(
    uploads: Uploads, files: Files, tmp_path: Path
) -> None:
    upload, (first, second, third) = begun(uploads, b"ab", "中".encode(), b"")
    assert upload.status == "pending"
    assert uploads.received(upload) == 5
    assert sorted(uploads.parts_in_use()) == sorted([first, second, third])

    file = uploads.complete(upload, [second, third, first], None)

    assert files.blobs.read(file.sha256) == "中ab".encode()
    assert (file.bytes, file.filename, file.kept) == (5, "a.txt", True)
    done = again(uploads, upload)
    assert done.status == "completed"
    assert done.file is not None
    assert done.file.id == file.id
    assert uploads.parts_in_use() == []
    assert on_disk(tmp_path / "blobs") == {f"{file.sha256[:2]}/{file.sha256}"}


def test_parts_that_are_not_named_are_left_out(uploads: Uploads, files: Files) -> None:
    upload, (first, _) = begun(uploads, b"ab", b"cd", size=4)
    with pytest.raises(UsageError, match=r"have 2 bytes; 4 were announced"):
        uploads.complete(upload, [first], None)

    other, parts = begun(uploads, b"x", b"", b"y")
    file = uploads.complete(other, [parts[0], parts[2]], None)
    assert files.blobs.read(file.sha256) == b"xy"


def test_wrong_parts_are_refused_and_the_upload_goes_on(
    uploads: Uploads, files: Files, tmp_path: Path
) -> None:
    upload, (first, second) = begun(uploads, b"ab", b"cd")
    _, (foreign,) = begun(uploads, b"cd")
    before = on_disk(tmp_path / "blobs")

    for parts in ([first, foreign], [first, "part_none"], [first, second, second], [second] * 2):
        with pytest.raises(UsageError, match="given twice or is not of this upload"):
            uploads.complete(upload, parts, None)
    for parts in ([], [first]):
        with pytest.raises(UsageError, match="4 were announced"):
            uploads.complete(upload, parts, None)

    assert on_disk(tmp_path / "blobs") == before
    assert count(files._db, FileRow) == 0
    assert files.blobs.read(uploads.complete(upload, [first, second], None).sha256) == b"abcd"


def test_more_than_announced_is_refused(uploads: Uploads, tmp_path: Path) -> None:
    upload, _ = begun(uploads, b"ab", size=3)
    before = on_disk(tmp_path / "blobs")

    with pytest.raises(UsageError, match=r"would have 4 bytes; 3 were announced"):
        send(uploads, upload, b"cd")

    assert on_disk(tmp_path / "blobs") == before
    send(uploads, upload, b"c")


def test_the_md5_is_compared(uploads: Uploads, files: Files) -> None:
    md5 = hashlib.md5(b"abcd").hexdigest()
    upload, parts = begun(uploads, b"ab", b"cd")
    for wrong in (hashlib.md5(b"abce").hexdigest(), "", "中文"):
        with pytest.raises(UsageError, match="another digest"):
            uploads.complete(upload, parts, wrong)
    assert count(files._db, FileRow) == 0

    assert uploads.complete(upload, parts, md5.upper()).bytes == 4


def test_a_closed_upload_takes_nothing_more(uploads: Uploads, files: Files, tmp_path: Path) -> None:
    completed, done = begun(uploads, b"abcd")
    uploads.complete(completed, done, None)
    cancelled, given_up = begun(uploads, b"abcd")
    uploads.cancel(cancelled)
    before = on_disk(tmp_path / "blobs")

    for upload, parts, status in (
        (completed, done, "completed"),
        (cancelled, given_up, "cancelled"),
    ):
        assert again(uploads, upload).status == status
        for late in (upload, again(uploads, upload)):
            with pytest.raises(UsageError, match=f"is {status} and takes nothing more"):
                send(uploads, late, b"")
            with pytest.raises(UsageError, match=f"is {status} and takes nothing more"):
                uploads.complete(late, parts, None)
            with pytest.raises(UsageError, match=f"is {status} and takes nothing more"):
                uploads.cancel(late)

    assert count(files._db, FileRow) == 1
    assert on_disk(tmp_path / "blobs") == before
    assert len(before) == 1


def test_an_upload_expires(uploads: Uploads, files: Files, tmp_path: Path) -> None:
    upload, parts = begun(uploads, b"ab")
    with files._db.write() as session:
        session.execute(update(UploadRow).values(expires_at=int(time.time())))

    assert again(uploads, upload).status == "expired"
    with pytest.raises(UsageError, match="is expired"):
        send(uploads, upload, b"")
    with pytest.raises(UsageError, match="is expired"):
        uploads.complete(upload, parts, None)
    with pytest.raises(UsageError, match="is expired"):
        uploads.cancel(upload)
    assert uploads.parts_in_use() == []
    os.utime(files.blobs.arrived(parts[0]), (0, 0))
    assert files.blobs.sweep(uploads.parts_in_use()) == 1
    assert on_disk(tmp_path / "blobs") == set()


def test_a_long_upload_is_not_swept_away(uploads: Uploads, files: Files) -> None:
    upload, parts = begun(uploads, b"ab")
    os.utime(files.blobs.arrived(parts[0]), (0, 0))

    assert files.blobs.sweep(uploads.parts_in_use()) == 0

    assert uploads.complete(upload, parts, None).bytes == 2


def test_a_part_that_is_gone_from_the_disk_is_a_fault_of_the_storage(
    uploads: Uploads, files: Files
) -> None:
    upload, parts = begun(uploads, b"ab")
    files.blobs.arrived(parts[0]).unlink()

    with pytest.raises(StorageError, match="No such file"):
        uploads.complete(upload, parts, None)
    assert again(uploads, upload).status == "pending"


def test_room_is_asked_for_at_both_ends(uploads: Uploads, files: Files, tmp_path: Path) -> None:
    small = Uploads(files._db, Files(files._db, files.blobs, quota=5))
    with pytest.raises(QuotaError):
        small.create(new_file(), 6)
    first, first_parts = begun(small, b"abc")
    with pytest.raises(QuotaError):
        begun(small, b"def")  # the first one is still coming
    second, second_parts = begun(uploads, b"def")
    small.complete(first, first_parts, None)

    with pytest.raises(QuotaError):
        small.complete(second, second_parts, None)

    assert again(small, second).status == "pending"
    assert len(on_disk(tmp_path / "blobs")) == 2
    assert small.create(new_file(new_project(files._db)), 5).status == "pending"


def test_parts_that_have_arrived_take_room(uploads: Uploads, files: Files, tmp_path: Path) -> None:
    small = Files(files._db, files.blobs, quota=10)
    coming = Uploads(files._db, small)
    upload, parts = begun(coming, b"abc", b"def")
    with pytest.raises(QuotaError, match="take 6 bytes; with 5 more"):
        add_file(small, b"12345")
    add_file(small, b"12345", project=new_project(files._db))
    room = add_file(small, b"1234")

    assert coming.complete(upload, parts, None).bytes == 6  # its own parts count once
    small.delete(room.id)

    other, _ = begun(coming, b"ab", size=4)
    add_file(small, b"12")
    before = on_disk(tmp_path / "blobs")
    with pytest.raises(QuotaError, match="take 10 bytes; with 2 more"):
        send(coming, other, b"cd")  # what was announced has been taken by a file
    assert on_disk(tmp_path / "blobs") == before
    coming.cancel(other)
    add_file(small, b"34")


def test_parts_of_an_upload_that_has_expired_take_no_room(uploads: Uploads, files: Files) -> None:
    small = Files(files._db, files.blobs, quota=10)
    begun(Uploads(files._db, small), b"abcdef")
    with files._db.write() as session:
        session.execute(update(UploadRow).values(expires_at=int(time.time())))
    add_file(small, b"1234567890")


def test_a_part_is_on_disk_under_its_name_when_it_is_acknowledged(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr("os.fsync", noted)
    _, (part,) = begun(uploads, b"x")
    incoming = tmp_path / "blobs/incoming"
    file = (incoming / part).stat().st_ino
    assert incoming.stat().st_ino in synced[synced.index(file) :]


@pytest.mark.parametrize("quota", [None, 9])
def test_completed_twice_at_once_gives_one_file(
    uploads: Uploads, files: Files, tmp_path: Path, quota: int | None
) -> None:
    files = Files(files._db, files.blobs, quota=quota)
    uploads = Uploads(files._db, files)
    for turn in range(4):
        upload, parts = begun(uploads, b"abc%d" % turn, b"x" * 5)

        results = at_once([lambda: uploads.complete(upload, parts, None)] * 3)  # noqa: B023

        (file,) = [row for row in results if isinstance(row, FileRow)]
        errors = [error for error in results if isinstance(error, UsageError)]
        assert len(errors) == 2
        assert all("takes nothing more" in str(error) for error in errors), errors
        done = again(uploads, upload)
        assert done.file is not None
        assert done.file.id == file.id
        assert count(files._db, FileRow) == 1
        assert files.blobs.read(file.sha256) == b"abc%dxxxxx" % turn
        assert on_disk(tmp_path / "blobs") == {f"{file.sha256[:2]}/{file.sha256}"}
        files.delete(file.id)


def test_completed_and_cancelled_at_once_is_one_of_the_two(
    uploads: Uploads, files: Files, tmp_path: Path
) -> None:
    for _ in range(4):
        upload, parts = begun(uploads, b"abcd")

        completed, cancelled = at_once(
            [lambda: uploads.complete(upload, parts, None), lambda: uploads.cancel(upload)]  # noqa: B023
        )

        state = again(uploads, upload)
        if isinstance(completed, FileRow):
            assert isinstance(cancelled, UsageError)
            assert state.status == "completed"
            assert files.blobs.read(completed.sha256) == b"abcd"
            files.delete(completed.id)
        else:
            assert isinstance(completed, UsageError), completed
            assert (cancelled, state.status, state.file) == (None, "cancelled", None)
        assert on_disk(tmp_path / "blobs") == set()
