"""What stands around a stored chunk in its document: text, chunk borders, section, pages."""

from __future__ import annotations

from sqlalchemy import func, select

from rag.expand import Around
from rag.schema import Chunk
from rag.store.database import Database
from rag.store.tables import ChunkRow, DocumentRow


class Surroundings:
    """Reads documents around chunks; it writes nothing."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def around(self, chunk: Chunk, reach: int) -> Around | None:
        """Return what stands within `reach` characters of a chunk and in its section.

        A chunk that holds several sections has them all for one. Between two sections, or in a
        document without any, the section is what no other claims.

        Args:
            chunk: As stored.
            reach: Characters on each side, >= 0.

        Returns:
            None if the chunk is gone.

        Raises:
            StorageError: If the database cannot be read.
        """
        row, document = ChunkRow, DocumentRow
        with self._db.read() as session:
            found = session.execute(
                select(document.id, document.sections, document.pages)
                .join(row, row.document_id == document.id)
                .where(row.id == chunk.id)
            ).one_or_none()
            if found is None:
                return None
            low, high = _section(found.sections, chunk)
            low = max(low, chunk.start - reach)
            high = chunk.end + reach if high is None else min(high, chunk.end + reach)
            text = session.scalar(
                select(func.substr(document.text, low + 1, high - low)).where(
                    document.id == found.id
                )
            )
            borders = session.execute(
                select(row.start, row.end)
                .where(row.document_id == found.id, row.start >= low, row.end <= high)
                .order_by(row.start)
            ).all()
        return Around(
            document=found.id,
            start=low,
            text=text or "",
            chunks=tuple((start, end) for start, end in borders),
            pages=tuple((start, int(label)) for start, _, label in found.pages),
        )


def _section(sections: list[list[int]], chunk: Chunk) -> tuple[int, int | None]:
    """Where the section of a chunk begins and ends; None: where the document does."""
    bounds = [(start, end) for start, end, _ in sections]
    touched = [(start, end) for start, end in bounds if start < chunk.end and chunk.start < end]
    if touched:
        low, high = min(touched)[0], max(end for _, end in touched)
        return min(low, chunk.start), max(high, chunk.end)
    before = [end for _, end in bounds if end <= chunk.start]
    after = [start for start, _ in bounds if start >= chunk.end]
    return max(before, default=0), min(after, default=None)
