"""The files of a project: kept, listed, deleted. Which store they are in is another table's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from rag.errors import QuotaError
from rag.store.blobs import Blobs, Incoming
from rag.store.changelog import in_parts
from rag.store.database import Database, mark_deleted
from rag.store.ids import new_id
from rag.store.pages import Page, Slice, read_page
from rag.store.service_tables import (
    FileRow,
    ProjectRow,
    StoreFileRow,
    UploadPartRow,
    UploadRow,
)


@dataclass(frozen=True, slots=True)
class NewFile:
    """What is known of a file that has arrived.

    Attributes:
        project_id: Its owner.
        filename: What to call it.
        purpose: "assistants" or "user_data".
        media_type: For example "application/pdf".
        expires_after: Seconds it shall live; None: until it is deleted.
    """

    project_id: str
    filename: str
    purpose: str
    media_type: str
    expires_after: int | None = None


@dataclass(frozen=True, slots=True)
class Swept:
    """How many blobs without a file were deleted, and how many left where they are."""

    deleted: int = 0
    left: int = 0


class Files:
    """The files of all projects.

    Args:
        db: The database.
        blobs: Their bytes.
        quota: Bytes that the files of one project may take; None: any number.
    """

    def __init__(self, db: Database, blobs: Blobs, *, quota: int | None = None) -> None:
        self._db = db
        self.blobs = blobs
        self._quota = quota

    def add(
        self,
        new: NewFile,
        incoming: Incoming,
        *,
        along: Callable[[Session, str], None] = lambda _session, _file_id: None,
        joined: bool = False,
    ) -> FileRow:
        """Keep a file that has arrived whole; when this returns, it is on disk.

        Args:
            new: What is known of it.
            incoming: Its bytes.
            along: Does, with the file's id, what belongs to the same transaction; if it raises,
                there is no file.
            joined: Whether its bytes are those of parts, which take their room already.

        Raises:
            QuotaError: If the project's files would take more than they may.
            StorageError: If it cannot be written.
        """
        sha256 = incoming.finish()
        now = int(time.time())
        row = FileRow(
            id=new_id("file-"),
            project_id=new.project_id,
            filename=new.filename,
            bytes=incoming.size,
            sha256=sha256,
            kept=True,
            purpose=new.purpose,
            media_type=new.media_type,
            created_at=now,
            expires_at=None if new.expires_after is None else now + new.expires_after,
        )
        with self.blobs.exclusive(), self._db.write() as session:
            along(session, row.id)
            lock_project(session, new.project_id)
            parts = 0 if joined else arrived_bytes(session, new.project_id)
            self.check_room(session, new.project_id, incoming.size, pending=parts)
            session.add(row)
            session.flush()
            session.expunge(row)
            self.blobs.keep(incoming, sha256)  # last: what fails before leaves no blob
        return row

    def check_room(self, session: Session, project_id: str, size: int, *, pending: int = 0) -> None:
        """Raise QuotaError if so many bytes more are not allowed to a project.

        The project must be locked (see `lock_project`), or two could fill the same room.

        Args:
            session: To read with.
            project_id: Which project.
            size: Bytes that come.
            pending: Bytes that uploads that are not complete take, or will take.
        """
        if self._quota is None:
            return
        found = session.scalar(
            select(func.coalesce(func.sum(FileRow.bytes), 0)).where(
                FileRow.project_id == project_id, FileRow.kept
            )
        )
        used = int(found or 0) + pending  # PostgreSQL adds up to a Decimal
        if used + size > self._quota:
            raise QuotaError(
                f"The project's files and pending uploads take {used:,} bytes; with {size:,} more "
                f"they would exceed the {self._quota:,} allowed.",
                do="Delete files that are no longer needed.",
            )

    def get(self, project_id: str, file_id: str) -> FileRow | None:
        """Return a file that the project owns and that has not expired, or None."""
        with self._db.read() as session:
            row = session.get(FileRow, file_id)
            if row is None or row.project_id != project_id or has_expired(row):
                return None
            session.expunge(row)
            return row

    def find(self, file_id: str) -> FileRow | None:
        """Return a file of any project, expired or not, or None."""
        with self._db.read() as session:
            row = session.get(FileRow, file_id)
            session.expunge_all()
            return row

    def page(self, project_id: str, part: Slice, purpose: str | None = None) -> Page[FileRow]:
        """Return a page of a project's files.

        Raises:
            CursorError: If the page's cursor is no file of the list.
        """
        known = select(FileRow).where(FileRow.project_id == project_id)
        query = known.where(FileRow.expires_at.is_(None) | (FileRow.expires_at > int(time.time())))
        if purpose is not None:
            query = query.where(FileRow.purpose == purpose)
        with self._db.read() as session:
            age = (FileRow.created_at, FileRow.id)
            found = read_page(session, query, age, part, among=known, prefix="file-")
            session.expunge_all()
            return found

    def stores_of(self, file_id: str) -> list[str]:
        """Return the ids of the stores that a file is in."""
        with self._db.read() as session:
            query = select(StoreFileRow.store_id).where(StoreFileRow.file_id == file_id)
            return list(session.scalars(query))

    def delete(self, file_id: str) -> bool:
        """Forget a file that is in no store any more, and its bytes if no other has the same.

        Returns:
            False, with nothing changed, if it is in a store, perhaps put there a moment ago.
        """
        with self.blobs.exclusive():
            with self._db.write() as session:
                # locked: a store that is to hold it waits, and then finds it gone
                row = session.get(FileRow, file_id, with_for_update=True)
                if row is None:
                    return True
                places = select(StoreFileRow.store_id).where(StoreFileRow.file_id == file_id)
                if session.scalar(places.limit(1)) is not None:
                    return False
                sha256 = row.sha256 if row.kept else None
                session.delete(row)
                session.flush()
                mark_deleted(session)
                others = select(FileRow.id).where(FileRow.sha256 == sha256, FileRow.kept).limit(1)
                last = sha256 is not None and session.scalar(others) is None
            if sha256 is not None and last:
                self.blobs.drop(sha256)
        return True

    def sweep(self) -> Swept:
        """Delete blobs that no file has; a crash beside the database's commit leaves such.

        Only those that are an hour old. If they outnumber those that files have, nothing is
        deleted: they are likely another database's.

        Raises:
            StorageError: If the database or the folder cannot be used now.
        """
        old = self.blobs.old()
        orphans = self._without_file(old)
        if 2 * len(orphans) > len(old):
            return Swept(left=len(orphans))
        swept = 0
        for digest in orphans:
            with self.blobs.exclusive():  # the same bytes may arrive meanwhile
                if digest in self.blobs.old([digest]) and self._without_file([digest]):
                    self.blobs.drop(digest)
                    swept += 1
        return Swept(swept)

    def _without_file(self, digests: Sequence[str]) -> list[str]:
        known: set[str] = set()
        with self._db.read() as session:
            for part in in_parts(digests):
                query = select(FileRow.sha256).where(FileRow.sha256.in_(part), FileRow.kept)
                known.update(session.scalars(query))
        return [digest for digest in digests if digest not in known]

    def drop_orphans(self) -> bool:
        """Delete the bytes of deleted files that are still there; return whether none is left."""

        def wanted(digests: Sequence[str]) -> set[str]:
            found: set[str] = set()
            with self._db.read() as session:
                for part in in_parts(digests):
                    query = select(FileRow.sha256).where(FileRow.sha256.in_(part), FileRow.kept)
                    found |= set(session.scalars(query))
            return found

        return self.blobs.orphans(wanted)

    def expired(self) -> list[tuple[str, str]]:
        """Return (project id, file id) of every file whose time has passed."""
        with self._db.read() as session:
            now = int(time.time())
            query = select(FileRow.project_id, FileRow.id).where(FileRow.expires_at <= now)
            return [(project, file) for project, file in session.execute(query)]


def arrived_bytes(session: Session, project_id: str) -> int:
    """Return the bytes of the parts of a project's uploads that can still be completed."""
    query = (
        select(func.coalesce(func.sum(UploadPartRow.bytes), 0))
        .join(UploadRow, UploadRow.id == UploadPartRow.upload_id)
        .where(
            UploadRow.project_id == project_id,
            UploadRow.status == "pending",
            UploadRow.expires_at > int(time.time()),
        )
    )
    return int(session.scalar(query) or 0)


def lock_project(session: Session, project_id: str) -> None:
    """Keep others from adding to what a project has, until the transaction ends."""
    row = select(ProjectRow.id).where(ProjectRow.id == project_id)
    session.execute(row.with_for_update(key_share=True))


def has_expired(row: FileRow) -> bool:
    """Whether a file's time has passed."""
    return row.expires_at is not None and row.expires_at <= time.time()
