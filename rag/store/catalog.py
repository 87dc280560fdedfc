"""The list of stores: create, find, delete. What is inside one is in rag.store.corpus."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from rag.errors import UnknownStore, UsageError
from rag.store.corpus import Store
from rag.store.database import Database, mark_deleted, retried
from rag.store.ids import new_id
from rag.store.redact import redact_gone
from rag.store.service_tables import BatchFileRow, FileBatchRow, FileRow, ProjectRow, StoreFileRow
from rag.store.tables import ChangeRow, ChunkRow, DocumentRow, StoreRow

SHADOW_PREFIX = "~"
"""Names of stores that a reindex is filling begin with it; they are not listed."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What `youju stores` shows of a store. `created_at` is in Unix seconds."""

    id: str
    name: str
    project: str
    documents: int
    chunks: int
    embedder: str
    created_at: int


class Catalog:
    """All stores of a database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def stores(self) -> list[StoreInfo]:
        """Return every store, by name."""
        with self._db.read() as session:
            documents = dict(
                session.execute(
                    select(DocumentRow.store_id, func.count()).group_by(DocumentRow.store_id)
                ).all()
            )
            chunks = dict(
                session.execute(
                    select(ChunkRow.store_id, func.count()).group_by(ChunkRow.store_id)
                ).all()
            )
            projects = dict(session.execute(select(ProjectRow.id, ProjectRow.name)).all())
            return [
                StoreInfo(
                    id=row.id,
                    name=row.name,
                    project=projects.get(row.project_id, row.project_id),
                    documents=documents.get(row.id, 0),
                    chunks=chunks.get(row.id, 0),
                    embedder=row.embedder,
                    created_at=row.created_at,
                )
                for row in session.scalars(
                    select(StoreRow)
                    .where(~StoreRow.name.startswith(SHADOW_PREFIX))
                    .order_by(StoreRow.name)
                )
            ]

    def find(self, name: str) -> Store | None:
        """Return the store of that name, or of that id, or None."""
        if not name.isprintable():  # no store has such a name, and a database may refuse to look
            return None
        with self._db.read() as session:
            row = session.scalar(select(StoreRow).where(StoreRow.name == name))
            if row is None and name.startswith("vs_"):
                row = session.get(StoreRow, name)
            return None if row is None else Store(self._db, row)

    def by_id(self, store_id: str, project_id: str) -> Store | None:
        """Return the store of that id if the project owns it, or None."""
        with self._db.read() as session:
            row = session.get(StoreRow, store_id)
            owned = row is not None and row.project_id == project_id
            return Store(self._db, row) if row is not None and owned else None

    def get(self, name: str) -> Store:
        """Return the store of that name.

        Raises:
            UnknownStore: If there is none; the message lists those that exist.
        """
        store = self.find(name)
        if store is None:
            known = ", ".join(info.name for info in self.stores()) or "none yet"
            raise UnknownStore(
                f"No store named {name!r} (stores: {known}).",
                do="`youju ingest PATH --store NAME` makes one.",
            )
        return store

    def create(self, name: str, *, embedder: str, dim: int, chunker: str) -> Store:
        """Return the store of that name, made now if it does not exist.

        Raises:
            UsageError: If the name is empty, longer than 100 characters, or holds control
                characters.
        """
        if not name.strip() or len(name) > 100 or not name.isprintable():
            raise UsageError(
                f"Store name {name[:120]!r} is not usable.",
                do="Give 1 to 100 printable characters.",
            )
        for _attempt in range(2):
            existing = self.find(name)
            if existing is not None:
                return existing
            row = StoreRow(
                id=new_id("vs_"),
                name=name,
                embedder=embedder,
                dim=dim,
                chunker=chunker,
                title=name,
                details={},
                last_active_at=int(time.time()),
            )
            try:
                with self._db.write() as session:
                    session.add(row)
                    session.flush()
                    return Store(self._db, row)
            except IntegrityError:  # another process made it in between
                continue
        return self.get(name)

    @retried
    def delete(self, name: str) -> int:
        """Delete a store with everything in it; return how many documents it held.

        Raises:
            UnknownStore: If there is none.
        """
        store = self.get(name)
        with self._db.write() as session:
            return delete_rows(session, store.id)

    @retried
    def delete_shadows(self, older_than_s: float) -> int:
        """Delete hidden stores that a killed reindex left behind; return how many there were."""
        limit = int(time.time() - older_than_s)
        with self._db.write() as session:
            left = select(StoreRow.id).where(
                StoreRow.name.startswith(SHADOW_PREFIX), StoreRow.created_at < limit
            )
            return len([delete_rows(session, store_id) for store_id in session.scalars(left).all()])


def delete_rows(session: Session, store_id: str) -> int:
    """Delete a store with everything in it; return how many documents it held."""
    session.execute(select(StoreRow.id).where(StoreRow.id == store_id).with_for_update())
    held = session.scalar(
        select(func.count()).select_from(DocumentRow).where(DocumentRow.store_id == store_id)
    )
    files = list(
        session.scalars(select(DocumentRow.file_id).where(DocumentRow.store_id == store_id))
    )
    only_here = select(StoreFileRow.file_id).where(StoreFileRow.store_id == store_id)
    session.execute(delete(FileRow).where(FileRow.id.in_(only_here), ~FileRow.kept))
    batches = select(FileBatchRow.id).where(FileBatchRow.store_id == store_id)
    session.execute(delete(BatchFileRow).where(BatchFileRow.batch_id.in_(batches)))
    for table in (ChangeRow, ChunkRow, DocumentRow, StoreFileRow, FileBatchRow):
        session.execute(delete(table).where(table.store_id == store_id))
    session.execute(delete(StoreRow).where(StoreRow.id == store_id))
    redact_gone(session, files)
    mark_deleted(session)
    return held or 0
