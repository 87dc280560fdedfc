"""Documents to store, and what a store's tables hold, for the tests of stores and indexes."""

from __future__ import annotations

import numpy as np
from sqlalchemy import select

from rag.schema import Document, Passage, Span
from rag.store.catalog import Catalog
from rag.store.changelog import NewDocument
from rag.store.corpus import Store
from rag.store.database import Database
from rag.store.tables import ChangeRow, ChunkRow

DIM = 4


def make_store(
    db: Database, name: str = "default", embedder: str = "e1", chunker: str = "c1"
) -> Store:
    return Catalog(db).create(name, embedder=embedder, dim=DIM, chunker=chunker)


def new_document(name: str, version: int = 1, chunks: int = 2, root: str = "") -> NewDocument:
    """A document whose chunk texts and vectors tell its name, version and place."""
    passages = [
        Passage(place, place + 1, f"{name} v{version} #{place}", context=name, page=place + 1)
        for place in range(chunks)
    ]
    vectors = np.zeros((chunks, DIM), np.float32)
    vectors[:, version % DIM] = 1
    return NewDocument(
        name=name,
        root=root,
        sha256=f"{version:064d}",
        size=10 * version,
        document=Document(
            text=f"{name} v{version}",
            title=f"标题 {name}",
            pages=(Span(0, 1, "1"),),
            sections=(Span(0, 2, "A > B"),),
            media_type="text/markdown",
            warnings=("page 3 holds no text",),
        ),
        passages=passages,
        vectors=vectors,
    )


def live(db: Database, store: Store) -> set[int]:
    with db.read() as session:
        return set(session.scalars(select(ChunkRow.id).where(ChunkRow.store_id == store.id)))


def log_of(db: Database, store: Store) -> list[tuple[int, int, int]]:
    with db.read() as session:
        return [
            (row.seq, row.op, row.chunk_id)
            for row in session.scalars(
                select(ChangeRow).where(ChangeRow.store_id == store.id).order_by(ChangeRow.seq)
            )
        ]


def replay(log: list[tuple[int, int, int]], until: int) -> set[int]:
    """What an index holds that has followed every line of the log up to `until`."""
    held: set[int] = set()
    for seq, op, chunk_id in log:
        if seq <= until:
            (held.add if op > 0 else held.discard)(chunk_id)
    return held
