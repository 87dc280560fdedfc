"""The documents of a store by the files they came from: which there are, moved, gone, looked at.

It reads no file; ingest.sync does, and decides.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select, update

from rag.store.changelog import free_name, in_parts
from rag.store.corpus import Store
from rag.store.database import Database
from rag.store.redact import redact_gone
from rag.store.service_tables import FileRow
from rag.store.stamps import Stamp, write_stamps
from rag.store.tables import DocumentRow, StampRow


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A document's file as it was when last read; the id stands for exactly those bytes.

    Attributes:
        id: The document's; a changed file's document gets a new one.
        size: Bytes.
        stamp: Its times; None where they are not known.
    """

    id: int
    size: int
    stamp: Stamp | None


@dataclass(frozen=True, slots=True)
class Origin:
    """What a moved or changed file is compared with."""

    id: int
    name: str
    source: str
    sha256: str
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Move:
    """A document's new place: `name` is what it is to be called if no other document is."""

    id: int
    name: str
    source: str
    root: str
    stamp: Stamp | None


class StoreSources:
    """The files of one store."""

    def __init__(self, db: Database, store: Store) -> None:
        self._db = db
        self._store = store

    def below(self, path: str) -> dict[str, KnownFile]:
        """Return what came from a file, or from anywhere in a folder, by source."""
        return self._known(_inside(path))

    def count_below(self, path: str) -> int:
        """Return how many documents came from a folder."""
        query = select(func.count()).select_from(DocumentRow)
        with self._db.read() as session:
            here = query.where(DocumentRow.store_id == self._store.id, _inside(path))
            return session.scalar(here) or 0

    def origins(self, ids: Sequence[int]) -> dict[int, Origin]:
        """Return the origins of documents by id; deleted ones are left out."""
        row = DocumentRow
        query = select(row.id, row.name, row.source, row.sha256, row.size, row.media_type)
        found: dict[int, Origin] = {}
        for part in in_parts(ids):
            with self._db.read() as session:
                for values in session.execute(query.where(row.id.in_(part))):
                    found[values[0]] = Origin(*values)
        return found

    def follow(
        self, moves: Sequence[Move], gone: Sequence[int]
    ) -> tuple[list[tuple[str, str]], list[str]]:
        """Move documents and delete others, in one transaction.

        A document keeps its id, attributes, chunks and vectors when it moves. One whose new place
        another process has filled meanwhile is deleted; one that is no more is passed over.

        Returns:
            (old name, new name) of each that was moved, and the names of those deleted.

        Raises:
            UnknownStore: If the store has been deleted meanwhile.
        """
        row = DocumentRow
        moved: list[tuple[str, str]] = []
        with self._store.change() as (session, log):
            wanted = {move.id: move for move in moves}
            places = select(row.id, row.name, row.file_id).where(row.store_id == self._store.id)
            held = {
                found.id: found
                for part in in_parts([*wanted, *gone])
                for found in session.execute(places.where(row.id.in_(part)))
            }
            filled = {
                source: other
                for part in in_parts([move.source for move in moves])
                for source, other in session.execute(
                    select(row.source, row.id).where(
                        row.store_id == self._store.id, row.source.in_(part)
                    )
                )
            }
            late = {
                move.id
                for move in moves
                if filled.get(move.source, move.id) not in wanted.keys() | set(gone)
            }
            dropped = [i for i in held if i not in wanted or i in late]
            log.drop_documents(dropped)
            redact_gone(session, [held[i].file_id for i in dropped])
            going = [wanted[i] for i in wanted if i in held and i not in late]
            for move in going:  # names and sources are unique: first all out of each other's way
                aside = f"~moving/{move.id}"
                values = {"name": aside, "source": aside}
                session.execute(update(row).where(row.id == move.id).values(**values))
            for move in going:
                name = free_name(session, self._store.id, move.name, move.root)
                values = {"name": name, "source": move.source, "root": move.root}
                session.execute(update(row).where(row.id == move.id).values(**values))
                file = FileRow.id == held[move.id].file_id
                session.execute(update(FileRow).where(file).values(filename=name))
                moved.append((held[move.id].name, name))
            stamps = {move.id: move.stamp for move in going if move.stamp is not None}
            write_stamps(session, stamps)
            return moved, [held[i].name for i in dropped]

    def restamp(self, stamps: Mapping[int, Stamp]) -> None:
        """Write stamps of documents whose files have been found to hold the same bytes."""
        if not stamps:
            return
        with self._store.change() as (session, _log):
            there = {
                i
                for part in in_parts(list(stamps))
                for i in session.scalars(select(DocumentRow.id).where(DocumentRow.id.in_(part)))
            }
            write_stamps(session, {i: stamp for i, stamp in stamps.items() if i in there})

    def _known(self, where: ColumnElement[bool]) -> dict[str, KnownFile]:
        row, stamp = DocumentRow, StampRow
        query = (
            select(row.source, row.id, row.size, stamp.mtime_ns, stamp.ctime_ns, stamp.seen_ns)
            .outerjoin(stamp, stamp.document_id == row.id)
            .where(row.store_id == self._store.id, where)
        )
        found: dict[str, KnownFile] = {}
        with self._db.read() as session:
            streamed = session.execute(query.execution_options(yield_per=5000))
            for source, i, size, mtime_ns, ctime_ns, seen_ns in streamed:
                times = None if seen_ns is None else Stamp(mtime_ns, ctime_ns, seen_ns)
                found[source] = KnownFile(i, size, times)
        return found


def _inside(path: str) -> ColumnElement[bool]:
    """Whether a source is a path, or anything below it, letter by letter."""
    prefix = path.rstrip(os.sep) + os.sep
    source = DocumentRow.source
    return (source == path) | (func.substr(source, 1, len(prefix)) == prefix)
