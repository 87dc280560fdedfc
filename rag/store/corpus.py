"""One store: its documents, its chunks and the log that the indexes follow.

Every change to chunks is written together with its log lines in one transaction, so that an index
that has applied the log up to `seq` holds exactly the chunks of that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from rag.errors import IndexMismatch, StorageError, UnknownFile, UnknownStore
from rag.schema import Chunk, Document, FloatArray, IntArray, Span
from rag.store.changelog import (
    STORED_VECTOR,
    ChangeLog,
    NewDocument,
    free_name,
    in_parts,
    used_bytes,
    without_nul,
)
from rag.store.database import Database, retried
from rag.store.redact import list_files, redact_answers, redact_gone
from rag.store.service_tables import StoreFileRow
from rag.store.stamps import carry_over
from rag.store.tables import ChangeRow, ChunkRow, DocumentRow, StoreRow

Outcome = Literal["added", "replaced", "unchanged"]


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """What `youju files` shows of a document. `created_at` is in Unix seconds."""

    name: str
    source: str
    root: str
    sha256: str
    size: int
    media_type: str
    title: str
    pages: int
    chunks: int
    characters: int
    warnings: tuple[str, ...]
    created_at: int
    file_id: str


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed after a sequence number, net: an id is in at most one of the two lists.

    Attributes:
        seq: The log's end, which an index records once it has applied the delta.
        whole: True if `added` is everything there is: the index must be emptied first.
    """

    seq: int
    added: list[int]
    removed: list[int]
    whole: bool


class Store:
    """A named corpus in the database. Cheap to make; holds no connection of its own."""

    def __init__(self, db: Database, row: StoreRow) -> None:
        self._db = db
        self.id = row.id
        self.name = row.name
        self.embedder = row.embedder
        self.dim = row.dim
        self.chunker = row.chunker

    # -- what the indexes follow ---------------------------------------------------------------

    def seq(self) -> int:
        """Return the end of the change log; 0 for a store that never held a chunk.

        Raises:
            UnknownStore: If the store has been deleted.
        """
        with self._db.read() as session:
            return self._seq(session)

    def delta(self, after: int) -> Delta:
        """Return the net change after sequence number `after`.

        All there is is returned for 0, and for a number that the log does not hold: the index
        then followed another database, or one restored since from a backup.

        Raises:
            UnknownStore: If the store has been deleted.
        """
        with self._db.read() as session:
            seq = self._seq(session)
            known = session.scalar(
                select(ChangeRow.seq).where(ChangeRow.store_id == self.id, ChangeRow.seq == after)
            )
            if known is None:
                ids = session.scalars(
                    select(ChunkRow.id).where(ChunkRow.store_id == self.id).order_by(ChunkRow.id)
                )
                return Delta(seq, list(ids), [], whole=True)
            last: dict[int, int] = {}
            for chunk_id, op in session.execute(
                select(ChangeRow.chunk_id, ChangeRow.op)
                .where(ChangeRow.store_id == self.id, ChangeRow.seq > after)
                .order_by(ChangeRow.seq)
            ):
                last[chunk_id] = op
            added = [chunk_id for chunk_id, op in last.items() if op > 0]
            removed = [chunk_id for chunk_id, op in last.items() if op < 0]
            return Delta(seq, added, removed, whole=False)

    def vectors(self, ids: Sequence[int]) -> Iterator[tuple[IntArray, FloatArray]]:
        """Yield (n,) ids and their (n, dim) float32 vectors in batches; deleted ids are left out.

        Raises:
            StorageError: If a stored vector has not `dim` numbers.
        """
        for part in in_parts(ids):
            with self._db.read() as session:
                rows = session.execute(
                    select(ChunkRow.id, ChunkRow.vector)
                    .where(ChunkRow.id.in_(part))
                    .order_by(ChunkRow.id)
                ).all()
            blob = b"".join(row.vector for row in rows)
            if len(blob) != len(rows) * self.dim * STORED_VECTOR.itemsize:
                raise StorageError(
                    f"Store {self.name!r} holds vectors of another length than {self.dim}.",
                    do="Run `youju reindex`.",
                )
            found = np.frombuffer(blob, dtype=STORED_VECTOR).reshape(len(rows), self.dim)
            yield np.array([row.id for row in rows], np.int64), found.astype(np.float32)

    def texts(self, ids: Sequence[int]) -> Iterator[list[tuple[int, str]]]:
        """Yield lists of (id, text to index) in batches; deleted ids are left out."""
        for part in in_parts(ids):
            yield [(chunk.id, chunk.indexed_text) for chunk in self.chunks(part).values()]

    def chunks(self, ids: Sequence[int]) -> dict[int, Chunk]:
        """Return the chunks that still exist among `ids`."""
        row = ChunkRow
        query = (  # not whole rows: they hold the vectors, too
            select(
                row.id, DocumentRow.name, row.start, row.end, row.text, row.context, row.page,
                DocumentRow.file_id,
            )
            .join(DocumentRow, DocumentRow.id == row.document_id)
            .where(row.store_id == self.id)
            .order_by(row.id)
        )  # fmt: skip
        found: dict[int, Chunk] = {}
        for part in in_parts(ids):
            with self._db.read() as session:
                for values in session.execute(query.where(row.id.in_(part))):
                    found[values[0]] = Chunk(*values)
        return found

    # -- documents -----------------------------------------------------------------------------

    def documents(self) -> list[DocumentInfo]:
        """Return what is known of every document, by name."""
        row = DocumentRow
        query = select(
            row.id, row.name, row.source, row.root, row.sha256, row.size, row.media_type,
            row.title, row.pages, row.warnings, row.created_at, row.file_id,
            func.length(row.text).label("characters"),
        )  # fmt: skip
        with self._db.read() as session:
            counts = dict(
                session.execute(
                    select(ChunkRow.document_id, func.count())
                    .where(ChunkRow.store_id == self.id)
                    .group_by(ChunkRow.document_id)
                ).all()
            )
            return [
                DocumentInfo(
                    name=found.name,
                    source=found.source,
                    root=found.root,
                    sha256=found.sha256,
                    size=found.size,
                    media_type=found.media_type,
                    title=found.title,
                    pages=len(found.pages),
                    chunks=counts.get(found.id, 0),
                    characters=found.characters,
                    warnings=tuple(found.warnings),
                    created_at=found.created_at,
                    file_id=found.file_id,
                )
                for found in session.execute(
                    query.where(row.store_id == self.id).order_by(row.name)
                )
            ]

    def hashes(self) -> dict[str, str]:
        """Return the sha256 of every document by name."""
        with self._db.read() as session:
            return dict(
                session.execute(
                    select(DocumentRow.name, DocumentRow.sha256).where(
                        DocumentRow.store_id == self.id
                    )
                ).all()
            )

    def sources(self) -> dict[str, tuple[str, str]]:
        """Return (name, sha256) of every document by its source."""
        row = DocumentRow
        with self._db.read() as session:
            found = session.execute(
                select(row.source, row.name, row.sha256).where(row.store_id == self.id)
            )
            return {source: (name, sha256) for source, name, sha256 in found}

    def document(self, name: str) -> Document:
        """Return a document as it was parsed.

        Raises:
            UnknownFile: If the store has none of that name.
        """
        with self._db.read() as session:
            row = session.scalar(
                select(DocumentRow).where(
                    DocumentRow.store_id == self.id, DocumentRow.name == _storable(name)
                )
            )
        if row is None:
            raise UnknownFile(
                f"Store {self.name!r} has no file {name!r}.",
                do=f"`youju files --store {self.name}` lists them.",
            )
        return Document(
            text=row.text,
            title=row.title,
            pages=tuple(Span(*span) for span in row.pages),
            sections=tuple(Span(*span) for span in row.sections),
            media_type=row.media_type,
            warnings=tuple(row.warnings),
        )

    def text_of_file(self, file_id: str) -> str | None:
        """Return the parsed text of a file of the store; None if it has none yet."""
        with self._db.read() as session:
            return session.scalar(
                select(DocumentRow.text).where(
                    DocumentRow.store_id == self.id, DocumentRow.file_id == file_id
                )
            )

    def page_in_file(self, file_id: str, offset: int) -> int | None:
        """Do as `page_of` for a file by its id; None also if the store has no such file."""
        with self._db.read() as session:
            pages = session.scalar(
                select(DocumentRow.pages).where(
                    DocumentRow.store_id == self.id, DocumentRow.file_id == file_id
                )
            )
        return _page_at(pages, offset)

    def page_of(self, name: str, offset: int) -> int | None:
        """Return the page, from 1, of a character of a document; None if it has no pages."""
        with self._db.read() as session:
            pages = session.scalar(
                select(DocumentRow.pages).where(
                    DocumentRow.store_id == self.id, DocumentRow.name == name
                )
            )
        return _page_at(pages, offset)

    @contextmanager
    def change(self) -> Iterator[tuple[Session, ChangeLog]]:
        """Open a transaction that changes documents; its log lines are written at the end.

        Raises:
            UnknownStore: If the store has been deleted meanwhile.
        """
        with self._db.write() as session:
            log = ChangeLog(session, self.id, self.dim, self._seq(session, lock=True))
            yield session, log
            log.write()

    def commit(self, documents: Iterable[NewDocument]) -> dict[str, Outcome]:
        """Store documents in one transaction, replacing those of the same source.

        A document whose source and sha256 are already there is left alone, also when another
        process stored it a moment ago. A stored one keeps its name; a new one whose name another
        document has gets its folder's name in front, and a number where that is not enough.

        Returns:
            What happened to each, by the name it has in the store.

        Raises:
            UnknownStore: If the store has been deleted meanwhile.
        """
        return self._commit(list(documents))

    @retried
    def _commit(self, documents: Sequence[NewDocument]) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        with self._db.write() as session:
            seq = self._seq(session, lock=True, adds=True)
            log = ChangeLog(session, self.id, self.dim, seq)
            for given in documents:
                new = replace(given, name=without_nul(given.name), source=without_nul(given.source))
                row = DocumentRow
                old = session.execute(
                    select(row.id, row.name, row.sha256, row.file_id).where(
                        row.store_id == self.id, row.source == new.identity
                    )
                ).one_or_none()
                if old is not None and old.sha256 == new.sha256:
                    outcomes[old.name] = "unchanged"
                    continue
                if old is not None:
                    log.drop_documents([old.id], keep_files=True)
                    redact_answers(session, [old.file_id])
                name = free_name(session, self.id, new.name, new.root) if old is None else old.name
                log.insert(new, name, "" if old is None else old.file_id)
                outcomes[name] = "added" if old is None else "replaced"
            log.write()
        return outcomes

    @retried
    def commit_file(self, new: NewDocument, worker: str) -> bool:
        """Store the document of a file that is in the store's list, and mark it completed.

        A file that has been taken out or cancelled meanwhile, or claimed by another, is left alone.

        Args:
            new: With its `file_id`, which is also its source.
            worker: Who has claimed it.

        Returns:
            Whether it was stored.

        Raises:
            UnknownStore: If the store has been deleted meanwhile.
        """
        with self._db.write() as session:
            seq = self._seq(session, lock=True, adds=True)
            log = ChangeLog(session, self.id, self.dim, seq)
            listed = session.get(StoreFileRow, (self.id, new.file_id), with_for_update=True)
            if listed is None or (listed.status, listed.worker) != ("in_progress", worker):
                return False
            log.insert(new, free_name(session, self.id, new.name, new.root))
            log.write()
            listed.status = "completed"
            listed.usage_bytes = used_bytes(new)
            listed.worker = None
        return True

    @retried
    def remove_file(self, file_id: str) -> bool:
        """Take a file out of the store, with its document if there is one yet.

        Returns:
            Whether it was there.

        Raises:
            UnknownStore: If the store has been deleted meanwhile.
        """
        with self._db.write() as session:
            log = ChangeLog(session, self.id, self.dim, self._seq(session, lock=True))
            documents = select(DocumentRow.id).where(
                DocumentRow.store_id == self.id, DocumentRow.file_id == file_id
            )
            listed = session.get(StoreFileRow, (self.id, file_id)) is not None
            log.drop_documents(list(session.scalars(documents)))
            redact_gone(session, [file_id])
            log.write()
            session.execute(  # one that is not parsed yet, or cannot be, has no document
                delete(StoreFileRow).where(
                    StoreFileRow.store_id == self.id, StoreFileRow.file_id == file_id
                )
            )
        return listed

    @retried
    def delete(self, names: Sequence[str], *, missing_ok: bool = False) -> int:
        """Delete documents by name, all or none; return how many chunks went with them.

        Raises:
            UnknownFile: If one of them is not there and that is not ok; nothing is deleted then.
        """
        with self._db.write() as session:
            log = ChangeLog(session, self.id, self.dim, self._seq(session, lock=True))
            ids = []
            for name in names:
                found = session.scalar(
                    select(DocumentRow.id).where(
                        DocumentRow.store_id == self.id, DocumentRow.name == _storable(name)
                    )
                )
                if found is None and missing_ok:
                    continue
                if found is None:
                    raise UnknownFile(
                        f"Store {self.name!r} has no file {name!r}; nothing was deleted.",
                        do=f"`youju files --store {self.name}` lists them.",
                    )
                ids.append(found)
            files = list_files(session, ids)
            dropped = log.drop_documents(ids)
            redact_gone(session, files)
            log.write()
            return dropped

    @retried
    def replace_all(
        self, source: Store, expected_seq: int, used: Mapping[str, int] | None = None
    ) -> bool:
        """Take over every document of `source`, with its embedder and chunker, in one step.

        Args:
            source: A store of the same database; it is deleted.
            expected_seq: This store's `seq` when the copying began.
            used: What the documents take now, bytes, by their files' ids.

        Returns:
            False, with nothing changed, if this store has changed since `expected_seq`.
        """
        with self._db.write() as session:
            log = ChangeLog(session, self.id, self.dim, self._seq(session, lock=True))
            if log.seq != expected_seq:
                return False
            carry_over(session, self.id, source.id)
            old = session.scalars(select(DocumentRow.id).where(DocumentRow.store_id == self.id))
            log.drop_documents(list(old), keep_files=True)
            moved = session.scalars(select(ChunkRow.id).where(ChunkRow.store_id == source.id))
            log.added(list(moved))
            for table in (DocumentRow, ChunkRow):
                session.execute(
                    update(table).where(table.store_id == source.id).values(store_id=self.id)
                )
            session.execute(
                update(StoreRow)
                .where(StoreRow.id == self.id)
                .values(embedder=source.embedder, dim=source.dim, chunker=source.chunker)
            )
            session.execute(delete(StoreRow).where(StoreRow.id == source.id))
            for file_id, size in (used or {}).items():
                session.execute(
                    update(StoreFileRow)
                    .where(StoreFileRow.store_id == self.id, StoreFileRow.file_id == file_id)
                    .values(usage_bytes=size)
                )
            log.write()
        self.embedder, self.dim, self.chunker = source.embedder, source.dim, source.chunker
        return True

    def _seq(self, session: Session, *, lock: bool = False, adds: bool = False) -> int:
        row = StoreRow
        query = select(row.seq, row.embedder, row.chunker).where(row.id == self.id)
        if lock:  # PostgreSQL: files can still be put into the store, which refer to its row
            query = query.with_for_update(key_share=True)
        found = session.execute(query).one_or_none()
        if found is None:
            raise UnknownStore(f"Store {self.name!r} has been deleted.", do="See `youju stores`.")
        was, now = self.embedder, found.embedder
        if adds and was == now:
            was, now = self.chunker, found.chunker
        if was != now:
            raise IndexMismatch(
                f"Store {self.name!r} has been reindexed meanwhile: opened with {was}, now {now}.",
                do="Run the command again.",
            )
        return int(found.seq)


def _page_at(pages: Sequence[tuple[int, int, str]] | None, offset: int) -> int | None:
    on = [int(label) for start, end, label in pages or () if start <= offset < end]
    return on[0] if on else None


def _storable(name: str) -> str:
    """Escape what a name a user typed cannot hold: the database would refuse to look it up."""
    return without_nul(name.encode("utf-8", "backslashreplace").decode())
