"""What the files of documents looked like when they were last read (rag.store.tables.StampRow).

It compares nothing: whether a file may have changed since is decided by ingest.sync.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session, aliased

from rag.store.tables import DocumentRow, StampRow

_MANY = 500  # rows in one SQL statement


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file's times, nanoseconds since 1970, each within 63 bits.

    Attributes:
        mtime_ns: When its content changed, as the file system says; programs may set it.
        ctime_ns: When anything about it changed; only the file system sets it.
        seen_ns: This machine's clock just before it was read.
    """

    mtime_ns: int
    ctime_ns: int
    seen_ns: int


def write_stamps(session: Session, stamps: Mapping[int, Stamp]) -> None:
    """Write stamps by document id over what was there; the documents must exist."""
    ids = list(stamps)
    for first in range(0, len(ids), _MANY):
        part = ids[first : first + _MANY]
        session.execute(delete(StampRow).where(StampRow.document_id.in_(part)))
        session.execute(insert(StampRow), [{"document_id": i, **asdict(stamps[i])} for i in part])


def carry_over(session: Session, old_store: str, new_store: str) -> None:
    """Give the documents of one store the stamps of those of another with the same files."""
    new, old = aliased(DocumentRow), aliased(DocumentRow)
    stamps = (
        select(new.id, StampRow.mtime_ns, StampRow.ctime_ns, StampRow.seen_ns)
        .join(old, (old.source == new.source) & (old.sha256 == new.sha256))
        .join(StampRow, StampRow.document_id == old.id)
        .where(new.store_id == new_store, old.store_id == old_store)
    )
    columns = ["document_id", "mtime_ns", "ctime_ns", "seen_ns"]
    session.execute(insert(StampRow).from_select(columns, stamps))
