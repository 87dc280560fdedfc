"""The list of files of each store: put in, taken out, counted, ingested by one worker at a time.

A file that is `in_progress` is work to be done. A worker claims it under a name of its own; whether
it still lives is for ingest.executors to say, and another takes over then. So nothing that was
accepted is forgotten, and each list entry is its own record of what became of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import Select, Update, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from rag.errors import AlreadyThere, UnknownFile
from rag.schema import IntArray
from rag.store.database import Database, retried
from rag.store.ids import new_id
from rag.store.pages import Page, Slice, read_page
from rag.store.service_tables import BatchFileRow, FileBatchRow, FileRow, StoreFileRow
from rag.store.tables import ChunkRow, DocumentRow

Status: TypeAlias = Literal["in_progress", "completed", "failed", "cancelled"]
LONGEST_WAIT_S = 600
"""So long at most is a file not to be taken again."""

ErrorCode: TypeAlias = Literal["server_error", "unsupported_file", "invalid_file"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to be put into a store.

    Attributes:
        file_id: Which.
        attributes: What filters can ask for; None: none, or those that it has there already.
        chunk_tokens, chunk_overlap: How it is cut up, tokens; None: as the settings say.
    """

    file_id: str
    attributes: Mapping[str, str | float | bool] | None = None
    chunk_tokens: int | None = None
    chunk_overlap: int | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Files of a store or batch by status, and the bytes that they take."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    usage_bytes: int = 0

    @property
    def total(self) -> int:
        """All files."""
        return self.in_progress + self.completed + self.failed + self.cancelled


class StoreFiles:
    """The lists of all stores."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, store_id: str, entries: Sequence[Entry], batch_id: str = "") -> None:
        """Put files into a store, to be ingested.

        One that is there already is left as it is, but for its attributes; one that failed or was
        cancelled is tried again.

        Raises:
            UnknownFile: If one of them, or the store, has been deleted; nothing is put in then.
            AlreadyThere: If one is there with chunks of another size than is now asked for.
        """
        try:
            self._add(store_id, entries, batch_id)
        except UnknownFile:  # or has another put one of them in at the same moment?
            self._add(store_id, entries, batch_id)

    @retried
    def _add(self, store_id: str, entries: Sequence[Entry], batch_id: str) -> None:
        with self._db.write() as session:
            add_within(session, store_id, entries, batch_id)

    def get(self, store_id: str, file_id: str) -> StoreFileRow | None:
        """Return a file's place in a store, or None."""
        with self._db.read() as session:
            row = session.get(StoreFileRow, (store_id, file_id))
            session.expunge_all()
            return row

    def page(
        self, store_id: str, part: Slice, *, status: str | None = None, batch_id: str | None = None
    ) -> Page[StoreFileRow]:
        """Return a page of a store's files, or of those of a batch.

        Raises:
            CursorError: If the page's cursor is no file of the list.
        """
        known = select(StoreFileRow).where(StoreFileRow.store_id == store_id)
        if batch_id is not None:
            known = known.where(StoreFileRow.file_id.in_(_files_of(batch_id)))
        query = known if status is None else known.where(StoreFileRow.status == status)
        with self._db.read() as session:
            age = (StoreFileRow.created_at, StoreFileRow.file_id)
            found = read_page(session, query, age, part, among=known)
            session.expunge_all()
            return found

    def counts(self, store_ids: Sequence[str]) -> dict[str, Counts]:
        """Return the counts of stores by their ids."""
        row = StoreFileRow
        query = (
            select(row.store_id, row.status, func.count(), func.sum(row.usage_bytes))
            .where(row.store_id.in_(store_ids))
            .group_by(row.store_id, row.status)
        )
        found: dict[str, dict[str, int]] = {store_id: {} for store_id in store_ids}
        with self._db.read() as session:
            for store_id, status, number, used in session.execute(query):
                found[store_id][status] = number
                before = found[store_id].get("usage_bytes", 0)
                found[store_id]["usage_bytes"] = before + int(used)  # PostgreSQL gives a Decimal
        return {store_id: Counts(**counts) for store_id, counts in found.items()}

    def set_attributes(self, store_id: str, file_id: str, attributes: Mapping[str, Any]) -> None:
        """Replace the attributes of a file of a store."""
        with self._db.write() as session:
            session.execute(
                update(StoreFileRow)
                .where(StoreFileRow.store_id == store_id, StoreFileRow.file_id == file_id)
                .values(attributes=dict(attributes))
            )

    def all_ids(self, store_id: str) -> list[str]:
        """Return the ids of all files of a store."""
        query = select(StoreFileRow.file_id).where(StoreFileRow.store_id == store_id)
        with self._db.read() as session:
            return list(session.scalars(query))

    def attributes(
        self, store_id: str, file_ids: Sequence[str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return the attributes of completed files of a store by their ids.

        Args:
            store_id: Which store.
            file_ids: Which files; None: all.
        """
        query = select(StoreFileRow.file_id, StoreFileRow.attributes).where(
            StoreFileRow.store_id == store_id, StoreFileRow.status == "completed"
        )
        if file_ids is not None:
            query = query.where(StoreFileRow.file_id.in_(file_ids))
        with self._db.read() as session:
            return {file_id: attributes for file_id, attributes in session.execute(query)}

    def chunk_sizes(self, store_id: str) -> dict[str, tuple[int, int]]:
        """Return (tokens, overlap), by its id, of each file for which chunks were asked for."""
        row = StoreFileRow
        query = select(row.file_id, row.chunk_tokens, row.chunk_overlap)
        with self._db.read() as session:
            return {
                file: (tokens, overlap or 0)
                for file, tokens, overlap in session.execute(query.where(row.store_id == store_id))
                if tokens is not None
            }

    def chunk_ids(self, store_id: str, file_ids: Sequence[str]) -> IntArray:
        """Return the ids, sorted, of the chunks of those files of a store."""
        import numpy as np

        wanted = set(file_ids)
        query = (
            select(ChunkRow.id, DocumentRow.file_id)
            .join(DocumentRow, DocumentRow.id == ChunkRow.document_id)
            .where(ChunkRow.store_id == store_id)
        )
        with self._db.read() as session:
            ids = [chunk for chunk, file in session.execute(query) if file in wanted]
        return np.array(sorted(ids), np.int64)

    # -- batches -------------------------------------------------------------------------------

    def new_batch(self, store_id: str, entries: Sequence[Entry] = ()) -> FileBatchRow:
        """Put files into a store, to be ingested, as one batch.

        Raises:
            UnknownFile, AlreadyThere: As `add`; there is no batch then.
        """
        try:
            return self._new_batch(store_id, entries)
        except UnknownFile:  # or has another put one of them in at the same moment?
            return self._new_batch(store_id, entries)

    @retried
    def _new_batch(self, store_id: str, entries: Sequence[Entry]) -> FileBatchRow:
        row = FileBatchRow(
            id=new_id("vsfb_"), store_id=store_id, created_at=int(time.time()), cancelled=False
        )
        with self._db.write() as session:
            session.add(row)
            session.flush()
            add_within(session, store_id, entries, row.id)
            session.expunge(row)
        return row

    def batch(self, store_id: str, batch_id: str) -> tuple[FileBatchRow, Counts] | None:
        """Return a batch of a store with its counts, or None."""
        row = StoreFileRow
        with self._db.read() as session:
            batch = session.get(FileBatchRow, batch_id)
            if batch is None or batch.store_id != store_id:
                return None
            query = (
                select(row.status, func.count())
                .where(row.store_id == store_id, row.file_id.in_(_files_of(batch_id)))
                .group_by(row.status)
            )
            counts = Counts(**dict(session.execute(query).all()))
            session.expunge_all()
            return batch, counts

    @retried
    def cancel_batch(self, batch_id: str) -> None:
        """Give up the files of a batch that are not completed, and that no other batch wants.

        A batch that is done stays as it is.
        """
        row = StoreFileRow
        wanted = (
            select(BatchFileRow.file_id)
            .join(FileBatchRow, FileBatchRow.id == BatchFileRow.batch_id)
            .where(FileBatchRow.store_id == row.store_id, FileBatchRow.cancelled.is_(False))
        )
        home = select(FileBatchRow.store_id).where(FileBatchRow.id == batch_id).scalar_subquery()
        with self._db.write() as session:
            in_hand = select(row).where(
                row.store_id == home,
                row.status == "in_progress",
                row.file_id.in_(_files_of(batch_id)),
            )
            session.execute(
                update(FileBatchRow)
                .where(FileBatchRow.id == batch_id, in_hand.exists())
                .values(cancelled=True)
            )
            session.execute(
                update(row)
                .where(
                    row.store_id == home,
                    row.status == "in_progress",
                    row.file_id.in_(_files_of(batch_id)),
                    row.file_id.not_in(wanted.correlate(row)),
                )
                .values(status="cancelled", worker=None)
            )

    # -- work ----------------------------------------------------------------------------------

    def claim(self, worker: str) -> tuple[StoreFileRow, FileRow] | None:
        """Take the file that is next; None if none waits.

        First those that were put in one by one, then those of batches; the oldest first.

        Args:
            worker: Who has it from now on, 1 to 40 characters: nobody else may have that name.
        """
        row = StoreFileRow
        now = int(time.time())
        waiting = (
            select(row)
            .where(
                row.status == "in_progress",
                row.worker.is_(None),
                # nobody waits longer: the clock has been put back meanwhile
                or_(row.worker_until <= now, row.worker_until > now + LONGEST_WAIT_S),
            )
            .order_by(row.batch_id.is_not(None), row.created_at, row.file_id)
            .limit(1)
        )
        with self._db.read() as session:  # most often there is none: no need to lock for that
            if session.scalar(waiting) is None:
                return None
        with self._db.write() as session:
            found = session.scalar(waiting.with_for_update(skip_locked=True))
            if found is None:
                return None
            found.worker = worker
            file = session.get(FileRow, found.file_id)
            session.flush()
            session.expunge_all()
            return None if file is None else (found, file)

    def claimed(self) -> list[StoreFileRow]:
        """Return the files that somebody has claimed and not finished."""
        row = StoreFileRow
        query = select(row).where(row.status == "in_progress", row.worker.is_not(None))
        with self._db.read() as session:
            found = list(session.scalars(query))
            session.expunge_all()
            return found

    def fail(self, claimed: StoreFileRow, code: ErrorCode, message: str) -> None:
        """Record that a file cannot be ingested, unless it is not its worker's any more."""
        with self._db.write() as session:
            session.execute(
                _update_claimed(claimed).values(
                    status="failed", error_code=code, error_message=message, worker=None
                )
            )

    def postpone(self, claimed: StoreFileRow, seconds: int) -> None:
        """Give a claimed file back, not to be taken again for so many seconds.

        Args:
            claimed: The file.
            seconds: At most `LONGEST_WAIT_S`, which is taken for more.
        """
        until = int(time.time()) + min(seconds, LONGEST_WAIT_S) if seconds else 0
        with self._db.write() as session:
            session.execute(_update_claimed(claimed).values(worker=None, worker_until=until))

    def release(self, claimed: StoreFileRow) -> None:
        """Give a claimed file back, to be taken again at once."""
        self.postpone(claimed, 0)

    @retried
    def cancel(self, store_id: str, file_id: str) -> bool:
        """Give up a file that is not completed; return whether it was waiting or in hand."""
        row = StoreFileRow
        with self._db.write() as session:
            changed = session.execute(
                update(row)
                .where(
                    row.store_id == store_id,
                    row.file_id == file_id,
                    row.status == "in_progress",
                )
                .values(status="cancelled", worker=None)
                .returning(row.file_id)
            )
            return changed.first() is not None

    def unfinished(self, limit: int = 1000) -> list[StoreFileRow]:
        """Return files that are still to be ingested, in the order in which they are taken."""
        row = StoreFileRow
        query = (
            select(row)
            .where(row.status == "in_progress")
            .order_by(row.batch_id.is_not(None), row.created_at, row.file_id)
            .limit(limit)
        )
        with self._db.read() as session:
            found = list(session.scalars(query))
            session.expunge_all()
            return found

    def waiting(self) -> int:
        """Return how many files are still to be ingested."""
        query = select(func.count()).select_from(StoreFileRow)
        with self._db.read() as session:
            return session.scalar(query.where(StoreFileRow.status == "in_progress")) or 0


def add_within(
    session: Session, store_id: str, entries: Sequence[Entry], batch_id: str = ""
) -> None:
    """Put files into a store in a transaction that is open; see `StoreFiles.add`.

    Raises:
        UnknownFile, AlreadyThere: As there; the transaction must be given up then.
    """
    try:
        _add_rows(session, store_id, entries, batch_id)
        session.flush()
    except IntegrityError as error:
        raise UnknownFile(
            "A file or the store does not exist any more; nothing was put in.",
            do="List them, and try again.",
        ) from error


def _add_rows(session: Session, store_id: str, entries: Sequence[Entry], batch_id: str) -> None:
    now = int(time.time())
    # All in one order: two that put the same files in then wait for each other in turn.
    for entry in sorted(entries, key=lambda entry: entry.file_id):
        row = session.get(StoreFileRow, (store_id, entry.file_id), with_for_update=True)
        if row is None:
            row = StoreFileRow(
                store_id=store_id, file_id=entry.file_id, status="", usage_bytes=0,
                created_at=now, worker_until=0, attributes={},
            )  # fmt: skip
            session.add(row)
        elif entry.chunk_tokens is not None and row.status in ("in_progress", "completed"):
            _check_chunks(row, entry)
        if entry.attributes is not None:
            row.attributes = dict(entry.attributes)
        if batch_id:
            row.batch_id = batch_id
            session.merge(BatchFileRow(batch_id=batch_id, file_id=entry.file_id))
        if row.status not in ("in_progress", "completed"):
            row.status = "in_progress"
            row.error_code = row.error_message = None
            row.worker, row.worker_until = None, 0
            row.chunk_tokens = entry.chunk_tokens
            row.chunk_overlap = entry.chunk_overlap


def _files_of(batch_id: str) -> Select[str]:
    return select(BatchFileRow.file_id).where(BatchFileRow.batch_id == batch_id)


def _update_claimed(claimed: StoreFileRow) -> Update:
    """Change a place in a store as long as the worker has it that claimed it."""
    row = StoreFileRow
    return update(row).where(
        row.store_id == claimed.store_id,
        row.file_id == claimed.file_id,
        row.status == "in_progress",
        row.worker == claimed.worker,
    )


def _check_chunks(row: StoreFileRow, entry: Entry) -> None:
    """Refuse to put a file in again with chunks of another size."""
    if (row.chunk_tokens, row.chunk_overlap) != (entry.chunk_tokens, entry.chunk_overlap):
        raise AlreadyThere(
            f"chunking_strategy: file {row.file_id} is in the store with chunks of another size.",
            do="Remove it from the store first, then put it in again.",
        )
