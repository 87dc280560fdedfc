"""Sketches of documents' texts, and which documents of a store may be like a new one.

A sketch is some of a text's hashes, ascending; how it is made and compared is in ingest.similar. It
lies beside its document under its KEYS smallest hashes: two texts that have four fifths of their
hashes in common share none of these once in some thousand times. So nothing is held in memory:
among 100,000 documents, which take 1.6 KiB each for it, a look takes 3 ms (2 busy cores, SQLite).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from rag.store.database import Database
from rag.store.tables import DocumentRow, SketchKeyRow, SketchRow

KEYS = 4
"""Hashes by which a document is found."""

Sketch = NDArray[np.uint64]

_STORED = np.dtype("<u8")
_MOST_OF_A_KEY = 64  # documents; a hash that more have says little
_MOST = 8  # documents whose sketches are read


@dataclass(frozen=True, slots=True)
class Likely:
    """A document that may be like another."""

    name: str
    sketch: Sketch


class StoreSketches:
    """The sketches of one store's documents."""

    def __init__(self, db: Database, store_id: str) -> None:
        self._db = db
        self._store_id = store_id

    def likely(self, sketch: Sketch, *, but: str) -> list[Likely]:
        """Return up to 8 documents that share the smallest hashes with a text, the most first.

        Args:
            sketch: The text's.
            but: The source of a document that is left out.

        Raises:
            StorageError: If the database cannot be read now.
        """
        row, meeting = DocumentRow, Counter[int]()
        with self._db.read() as session:
            for key in _keys(sketch):
                having = (
                    select(row.id)
                    .join(SketchKeyRow, SketchKeyRow.document_id == row.id)
                    .where(SketchKeyRow.key == key, row.store_id == self._store_id)
                    .where(row.source != but)
                    .order_by(SketchKeyRow.document_id)
                    .limit(_MOST_OF_A_KEY)
                )
                meeting.update(session.scalars(having))
            ids = sorted(meeting, key=lambda id_: (-meeting[id_], id_))[:_MOST]
            query = select(row.id, row.name, SketchRow.sketch).join(
                SketchRow, SketchRow.document_id == row.id
            )
            found = {
                id_: Likely(name, np.frombuffer(stored, _STORED).astype(np.uint64))
                for id_, name, stored in session.execute(query.where(row.id.in_(ids)))
            }
        return [found[id_] for id_ in ids if id_ in found]


def write_sketch(session: Session, document_id: int, sketch: Sketch) -> None:
    """Write the sketch of a document that has none yet; an empty one is not written."""
    if not len(sketch):
        return
    stored = sketch.astype(_STORED).tobytes()
    session.execute(insert(SketchRow), {"document_id": document_id, "sketch": stored})
    keys = [{"document_id": document_id, "key": key} for key in _keys(sketch)]
    session.execute(insert(SketchKeyRow), keys)


def _keys(sketch: Sketch) -> list[int]:
    """Return the smallest hashes as a database has integers: signed."""
    return [int(value) for value in sketch[:KEYS].astype(np.uint64).view(np.int64)]
