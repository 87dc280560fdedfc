"""Files that arrive in parts, each of which is on disk when it is acknowledged."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from rag.errors import StorageError, UploadError, UsageError
from rag.store.blobs import Incoming
from rag.store.changelog import in_parts
from rag.store.database import Database, retried
from rag.store.files import Files, NewFile, arrived_bytes, lock_project
from rag.store.ids import new_id
from rag.store.service_tables import FileRow, UploadPartRow, UploadRow

LIFE_S = 3600
"""An upload that is not completed within an hour expires."""


@dataclass(frozen=True, slots=True)
class UploadState:
    """An upload as it is now; `file` is set once it is completed."""

    row: UploadRow
    status: str
    file: FileRow | None = None


class Uploads:
    """The uploads of all projects.

    Args:
        db: The database.
        files: Where completed ones go.
    """

    def __init__(self, db: Database, files: Files) -> None:
        self._db = db
        self._files = files

    def create(self, new: NewFile, size: int) -> UploadState:
        """Announce a file of so many bytes.

        Raises:
            QuotaError: If the project has no room for it beside its other pending uploads.
        """
        now = int(time.time())
        row = UploadRow(
            id=new_id("upload_"),
            project_id=new.project_id,
            filename=new.filename,
            bytes=size,
            purpose=new.purpose,
            media_type=new.media_type,
            status="pending",
            created_at=now,
            expires_at=now + LIFE_S,
            file_expires_after=new.expires_after,
        )
        with self._db.write() as session:
            lock_project(session, new.project_id)
            coming = session.scalar(
                select(func.coalesce(func.sum(UploadRow.bytes), 0)).where(
                    UploadRow.project_id == new.project_id,
                    UploadRow.status == "pending",
                    UploadRow.expires_at > now,
                )
            )
            self._files.check_room(session, new.project_id, size, pending=int(coming or 0))
            session.add(row)
            session.flush()
            session.expunge(row)
        return UploadState(row, "pending")

    def get(self, project_id: str, upload_id: str) -> UploadState | None:
        """Return an upload of a project, or None."""
        with self._db.read() as session:
            row = session.get(UploadRow, upload_id)
            if row is None or row.project_id != project_id:
                return None
            file = session.get(FileRow, row.file_id) if row.file_id else None
            session.expunge_all()
        return UploadState(row, _status(row), file)

    def received(self, upload: UploadState) -> int:
        """Return the bytes of all its parts so far."""
        with self._db.read() as session:
            query = select(UploadPartRow.bytes).where(UploadPartRow.upload_id == upload.row.id)
            return sum(session.scalars(query))

    def add_part(self, upload: UploadState, part_id: str, incoming: Incoming) -> UploadPartRow:
        """Record a part that was received under the name `part_id`; from then on it stays.

        Raises:
            UsageError: If the upload is not pending any more, or its parts are more than announced.
            QuotaError: If the project has no room for it any more.
            StorageError: If it cannot be written.
        """
        incoming.finish()
        incoming.sync_name()
        row = UploadPartRow(
            id=part_id,
            upload_id=upload.row.id,
            bytes=incoming.size,
            created_at=int(time.time()),
        )
        with self._db.write() as session:
            announced = _pending(session, upload.row.id).bytes
            query = select(func.sum(UploadPartRow.bytes)).where(
                UploadPartRow.upload_id == row.upload_id
            )
            size = int(session.scalar(query) or 0) + incoming.size
            if size > announced:
                raise UploadError(
                    f"data: the parts would have {size:,} bytes; {announced:,} were announced.",
                    do="Start a new upload, of the file's real size.",
                )
            project_id = upload.row.project_id
            lock_project(session, project_id)
            parts = arrived_bytes(session, project_id)
            self._files.check_room(session, project_id, incoming.size, pending=parts)
            session.add(row)
            session.flush()
            session.expunge(row)
        incoming.stays = True
        return row

    def complete(self, upload: UploadState, part_ids: Sequence[str], md5: str | None) -> FileRow:
        """Join parts, in the order given, to a file of the project.

        Raises:
            UploadError: If a part is unknown or given twice, or the bytes are not as many as
                announced or not those of the MD5 digest.
            UsageError: If the upload is not pending.
            QuotaError: If the project has no room for it any more.
            StorageError: If it cannot be written.
        """
        blobs = self._files.blobs
        with self._db.read() as session:
            _check_pending(session.get(UploadRow, upload.row.id), upload.row.id)
            query = select(UploadPartRow).where(UploadPartRow.upload_id == upload.row.id)
            known = {part.id: part.bytes for part in session.scalars(query)}
        if len(set(part_ids)) != len(part_ids) or not known.keys() >= set(part_ids):
            raise UploadError(
                "part_ids: got a part that is given twice or is not of this upload.",
                do="Give each part's id once, in the order of the file.",
            )
        size = sum(known[part] for part in part_ids)
        if size != upload.row.bytes:
            raise UploadError(
                f"part_ids: the parts have {size:,} bytes; {upload.row.bytes:,} were announced.",
                do="Send what is missing, or start a new upload.",
            )
        new = NewFile(
            project_id=upload.row.project_id,
            filename=upload.row.filename,
            purpose=upload.row.purpose,
            media_type=upload.row.media_type,
            expires_after=upload.row.file_expires_after,
        )
        with blobs.receive() as incoming:
            try:
                blobs.join((blobs.arrived(part) for part in part_ids), incoming)
            except StorageError:  # another request was quicker, and has dropped the parts?
                with self._db.read() as session:
                    _check_pending(session.get(UploadRow, upload.row.id), upload.row.id)
                raise
            if md5 is not None and _md5(incoming) != md5.lower():
                raise UploadError(
                    "md5: the bytes that arrived have another digest.",
                    do="Upload the file again.",
                )

            def end(session: Session, file_id: str) -> None:
                row = _pending(session, upload.row.id)
                row.status, row.file_id = "completed", file_id

            file = self._files.add(new, incoming, along=end, joined=True)
        self._drop_parts(list(known))
        return file

    def cancel(self, upload: UploadState) -> None:
        """Give an upload up.

        Raises:
            UsageError: If it is not pending.
        """
        with self._db.write() as session:
            _pending(session, upload.row.id).status = "cancelled"
            query = select(UploadPartRow.id).where(UploadPartRow.upload_id == upload.row.id)
            parts = list(session.scalars(query))
        self._drop_parts(parts)

    @retried
    def forget_before(self, moment: int) -> int:
        """Forget uploads that were begun before a moment, Unix seconds; return how many.

        Their files stay. None can still be completed: an upload lives for `LIFE_S`.
        """
        with self._db.write() as session:
            old = select(UploadRow.id).where(UploadRow.created_at < moment)
            ids = list(session.scalars(old))
            for part in in_parts(ids):
                session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id.in_(part)))
                session.execute(delete(UploadRow).where(UploadRow.id.in_(part)))
            return len(ids)

    def parts_in_use(self) -> list[str]:
        """Return the names of received parts whose upload can still be completed."""
        with self._db.read() as session:
            query = (
                select(UploadPartRow.id)
                .join(UploadRow, UploadRow.id == UploadPartRow.upload_id)
                .where(UploadRow.status == "pending", UploadRow.expires_at > int(time.time()))
            )
            return list(session.scalars(query))

    def _drop_parts(self, parts: Sequence[str]) -> None:
        for part in parts:
            self._files.blobs.drop_arrived(part)


def _md5(incoming: Incoming) -> str:
    """Return the MD5 digest of what has arrived, which clients may give to be compared."""
    incoming.finish()
    with incoming.path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _status(row: UploadRow) -> str:
    expired = row.status == "pending" and row.expires_at <= time.time()
    return "expired" if expired else row.status


def _pending(session: Session, upload_id: str) -> UploadRow:
    """Return the row of an upload, which other transactions cannot change until this one ends.

    Raises:
        UsageError: If it is not pending any more.
    """
    row = session.get(UploadRow, upload_id, with_for_update=True)
    return _check_pending(row, upload_id)


def _check_pending(row: UploadRow | None, upload_id: str) -> UploadRow:
    """Return an upload's row if it is pending.

    Raises:
        UsageError: If it is not.
    """
    status = "gone" if row is None else _status(row)
    if row is None or status != "pending":
        raise UsageError(
            f"Upload {upload_id} is {status} and takes nothing more.",
            do="Start a new upload of the file.",
        )
    return row
