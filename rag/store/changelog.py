"""What is written in one transaction: documents, their chunks, and the change log's lines.

The log is what indexes follow. This module does no locking and opens no transaction; `Store` does.
"""

from __future__ import annotations

import itertools
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeVar

import numpy as np
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from rag.schema import Document, FloatArray, Passage
from rag.store.database import mark_deleted
from rag.store.ids import new_id
from rag.store.service_tables import FileRow, StoreFileRow
from rag.store.sketches import Sketch, write_sketch
from rag.store.stamps import Stamp, write_stamps
from rag.store.tables import ChangeRow, ChunkRow, DocumentRow, StoreRow

STORED_VECTOR = np.dtype("<f2")
"""How a vector's numbers are stored."""

Id = TypeVar("Id", int, str)

_MANY = 500  # ids in one SQL statement
_LARGEST = 1.01  # of a unit vector's numbers, with room for rounding
_GAP = 2**32  # the column holds 2^63: room for 2^31 transactions


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A parsed, chunked and embedded file, ready to be stored.

    Attributes:
        name: What to call it; another document's name is not taken, see `Store.commit`.
        root: Absolute folder it was found under: the one given, or its own when named itself.
        sha256: Hex digest of the file's bytes.
        size: The file's bytes.
        vectors: (len(passages), dim) float32 unit rows.
        source: The absolute path of its file; "" where the name says what it is.
        file_id: The file that it is parsed from, which is in the store's list already; "" for one
            that has come from a folder, which is put there.
        stamp: What the file looked like when it was read; None where there is none to look at.
        sketch: Of its text (ingest.similar), by which others find it; None: they do not.
    """

    name: str
    root: str
    sha256: str
    size: int
    document: Document
    passages: Sequence[Passage]
    vectors: FloatArray
    source: str = ""
    file_id: str = ""
    stamp: Stamp | None = None
    sketch: Sketch | None = None

    @property
    def identity(self) -> str:
        """What makes it the same document as a stored one."""
        return self.source or self.name


class ChangeLog:
    """Writes documents in one transaction and appends what happened to chunks to the log.

    Args:
        session: The transaction; the store's row is locked in it.
        store_id: Which store.
        dim: Length of its vectors.
        seq: The log's end.
    """

    def __init__(self, session: Session, store_id: str, dim: int, seq: int) -> None:
        self._session = session
        self._store_id = store_id
        self._dim = dim
        self.seq = seq
        self._changes: list[tuple[int, int]] = []

    def added(self, ids: Sequence[int]) -> None:
        """Note chunks that have been inserted."""
        self._changes += [(1, chunk_id) for chunk_id in ids]

    def drop_documents(self, document_ids: Sequence[int], *, keep_files: bool = False) -> int:
        """Delete documents with their chunks; return the number of chunks.

        Args:
            document_ids: Which.
            keep_files: Leave their files in the store's list, for their next version.
        """
        dropped = 0
        for part in in_parts(document_ids):
            if not keep_files:
                self._drop_files(part)
            chunks = list(
                self._session.scalars(select(ChunkRow.id).where(ChunkRow.document_id.in_(part)))
            )
            self._changes += [(-1, chunk_id) for chunk_id in chunks]
            self._session.execute(delete(ChunkRow).where(ChunkRow.document_id.in_(part)))
            self._session.execute(delete(DocumentRow).where(DocumentRow.id.in_(part)))
            dropped += len(chunks)
        if document_ids:
            mark_deleted(self._session)
        return dropped

    def _drop_files(self, document_ids: Sequence[int]) -> None:
        """Take the files of documents out of the store; those of a folder are then forgotten."""
        found = select(DocumentRow.file_id).where(DocumentRow.id.in_(document_ids))
        ids = list(self._session.scalars(found))
        self._session.execute(
            delete(StoreFileRow).where(
                StoreFileRow.store_id == self._store_id, StoreFileRow.file_id.in_(ids)
            )
        )
        self._session.execute(delete(FileRow).where(FileRow.id.in_(ids), ~FileRow.kept))

    def _list_file(self, new: NewDocument, name: str, file_id: str) -> str:
        """Put a file that came from a folder into the store's list, or bring it up to date."""
        known = {
            "filename": name,
            "bytes": new.size,
            "sha256": new.sha256,
            "media_type": new.document.media_type,
        }
        if file_id:
            changed = update(FileRow).where(FileRow.id == file_id).values(**known)
            self._session.execute(changed)
            self._session.execute(
                update(StoreFileRow)
                .where(StoreFileRow.store_id == self._store_id, StoreFileRow.file_id == file_id)
                .values(usage_bytes=used_bytes(new))
            )
            return file_id
        project = select(StoreRow.project_id).where(StoreRow.id == self._store_id)
        file = FileRow(
            id=new_id("file-"),
            project_id=self._session.scalar(project),
            kept=False,
            purpose="assistants",
            created_at=int(time.time()),
            **known,
        )
        self._session.add(file)
        self._session.flush()
        self._session.add(
            StoreFileRow(
                store_id=self._store_id,
                file_id=file.id,
                status="completed",
                attributes={},
                usage_bytes=used_bytes(new),
                created_at=file.created_at,
                worker_until=0,
            )
        )
        self._session.flush()
        return file.id

    def insert(self, new: NewDocument, name: str, file_id: str = "") -> None:
        """Insert a document with its chunks.

        Args:
            new: The document.
            name: What to call it.
            file_id: The file of the version that it replaces.

        Raises:
            ValueError: If its vectors are not (n, dim) unit vectors, one for each passage.
        """
        document = new.document
        document_id = self._session.scalar(
            insert(DocumentRow).returning(DocumentRow.id),
            {
                "store_id": self._store_id,
                "name": name,
                "source": new.identity,
                "root": new.root,
                "sha256": new.sha256,
                "size": new.size,
                "media_type": document.media_type,
                "title": without_nul(document.title),
                "text": without_nul(document.text),
                "pages": [[s.start, s.end, s.label] for s in document.pages],
                "sections": [[s.start, s.end, s.label] for s in document.sections],
                "warnings": list(document.warnings),
                "file_id": new.file_id or self._list_file(new, name, file_id),
            },
        )
        if new.stamp is not None and document_id is not None:
            write_stamps(self._session, {document_id: new.stamp})
        if new.sketch is not None and document_id is not None:
            write_sketch(self._session, document_id, new.sketch)
        if new.vectors.shape != (len(new.passages), self._dim):
            raise ValueError(
                f"{new.name}: got vectors {new.vectors.shape}, "
                f"expected ({len(new.passages)}, {self._dim})"
            )
        if not (np.abs(new.vectors) <= _LARGEST).all():  # also refuses NaN
            raise ValueError(f"{new.name}: a vector holds numbers that no unit vector holds")
        rows = [
            {
                "store_id": self._store_id,
                "document_id": document_id,
                "start": passage.start,
                "end": passage.end,
                "page": passage.page,
                "context": without_nul(passage.context),
                "text": without_nul(passage.text),
                "vector": vector.astype(STORED_VECTOR).tobytes(),
            }
            for passage, vector in zip(new.passages, new.vectors, strict=True)
        ]
        if rows:
            self.added(list(self._session.scalars(insert(ChunkRow).returning(ChunkRow.id), rows)))

    def write(self) -> None:
        """Append the changes to the log.

        The numbers of a transaction follow each other; before the first comes a random gap. A
        database put back from a backup thus gives a number out again only by a chance of one in
        millions, and an index that has followed the lost history notices: its number is not in
        the log.
        """
        if not self._changes:
            return
        first = self.seq + 1 + secrets.randbelow(_GAP)
        self._session.execute(
            insert(ChangeRow).returning(ChangeRow.seq),  # so that drivers send many rows at once
            [
                {"store_id": self._store_id, "seq": seq, "op": op, "chunk_id": chunk_id}
                for seq, (op, chunk_id) in enumerate(self._changes, start=first)
            ],
        )
        self._session.execute(
            update(StoreRow)
            .where(StoreRow.id == self._store_id)
            .values(seq=first + len(self._changes) - 1)
        )


def used_bytes(new: NewDocument) -> int:
    """Return what a document takes in the store: its text, and the vectors of its passages."""
    text = sum(len(passage.text.encode("utf-8", "replace")) for passage in new.passages)
    return text + new.vectors.size * STORED_VECTOR.itemsize


def without_nul(text: str) -> str:
    """Put U+FFFD in the place of NUL, which PostgreSQL cannot store; all offsets stay right."""
    return text.replace("\0", "\ufffd")


def free_name(session: Session, store_id: str, name: str, root: str) -> str:
    """Return a document's name, changed so far that no other document of the store has it."""
    folder = PurePath(root).name
    stem, suffix = os.path.splitext(f"{folder}/{name}" if folder else name)
    numbered = (f"{stem} ({number}){suffix}" for number in itertools.count(2))
    for free in itertools.chain([name, stem + suffix], numbered):
        taken = select(DocumentRow.id).where(
            DocumentRow.store_id == store_id, DocumentRow.name == free
        )
        if session.scalar(taken) is None:
            return free
    raise AssertionError("unreachable: the numbers do not end")


def in_parts(ids: Sequence[Id]) -> Iterator[Sequence[Id]]:
    """Yield ids in lists short enough for one SQL statement."""
    for first in range(0, len(ids), _MANY):
        yield ids[first : first + _MANY]
