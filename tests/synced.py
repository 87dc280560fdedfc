"""A store and a folder that are to be equal, for tests of syncing; parses in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from sqlalchemy import select

from ingest.job import make_chunker, max_file_bytes
from ingest.parse import parse
from ingest.pipeline import Ingestion
from ingest.sync import FolderSync, SyncReport
from rag.build import OpenStore, Rag
from rag.config import Settings
from rag.schema import Document, FloatArray
from rag.store.corpus import Store
from rag.store.sources import StoreSources
from rag.store.tables import ChunkRow, DocumentRow
from rag.testing import FakeEmbedder

LONG_AGO_NS = 1_600_000_000_000_000_000
"""So old that no file with such a time is taken for one that may just have changed."""


class Counting(FakeEmbedder):
    """Counts the passages it embeds."""

    embedded = 0

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        self.embedded += len(texts)
        return super().encode_passages(texts)


class _Parser:
    """Stands in for the fenced parsers: nothing in these tests is hostile."""

    def __init__(self) -> None:
        self.parsed: list[str] = []
        self.before: Callable[[], object] = lambda: None

    def parse(self, data: bytes, name: str) -> Document:
        self.before()
        self.parsed.append(name)
        return parse(data, name)


class SyncBench:
    """A folder, a store, and what syncs them.

    Args:
        home: An empty home folder, or one with an empty database.
        root: The folder; made if missing.
    """

    def __init__(self, home: Path, root: Path, **settings: Any) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.rag = Rag(Settings(home=home, **settings))
        self.embedder = Counting()
        self.rag.embedder = cast(Any, self.embedder)
        self.parser = _Parser()
        self._ticks = 0

    def write(self, name: str, text: str, *, recent: bool = False) -> Path:
        """Write a file; its time is long ago, later than that of every file before, or now."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        if not recent:
            self.touch(name)
        return path

    def touch(self, name: str) -> None:
        self._ticks += 1
        time_ns = LONG_AGO_NS + self._ticks * 1_000_000_000
        os.utime(self.root / name, ns=(time_ns, time_ns))

    def syncer(self, root: Path | None = None, *, yes_delete: bool = False) -> FolderSync:
        chunker = make_chunker(self.rag)
        ingestion = Ingestion(
            lambda: self.rag.writable("s", chunker.fingerprint),
            chunker=chunker,
            embedder=lambda: self.rag.embedder,
            pool=cast(Any, self.parser),
            max_bytes=max_file_bytes(self.rag),
        )
        return FolderSync(
            ingestion,
            lambda store: StoreSources(self.rag.db, store),
            root or self.root,
            max_bytes=max_file_bytes(self.rag),
            yes_delete=yes_delete,
        )

    def sync(self, root: Path | None = None, *, yes_delete: bool = False) -> SyncReport:
        return self.syncer(root, yes_delete=yes_delete).run()

    @property
    def store(self) -> Store:
        return self.rag.catalog.get("s")

    def texts(self) -> dict[str, str]:
        """The parsed text of every document by name."""
        return {info.name: self.store.document(info.name).text for info in self.store.documents()}

    def ids(self) -> dict[str, tuple[int, str]]:
        """(document id, file id) by name."""
        query = select(DocumentRow.name, DocumentRow.id, DocumentRow.file_id)
        with self.rag.db.read() as session:
            return {name: (i, file) for name, i, file in session.execute(query)}

    def chunks(self) -> dict[str, list[tuple[int, str, bytes]]]:
        """(id, text, vector) of the chunks of every document by name."""
        query = (
            select(DocumentRow.name, ChunkRow.id, ChunkRow.text, ChunkRow.vector)
            .join(ChunkRow, ChunkRow.document_id == DocumentRow.id)
            .order_by(ChunkRow.id)
        )
        found: dict[str, list[tuple[int, str, bytes]]] = {}
        with self.rag.db.read() as session:
            for name, i, text, vector in session.execute(query):
                found.setdefault(name, []).append((i, text, vector))
        return found

    def found(self, word: str) -> dict[str, set[str]]:
        """Names of the files that each index finds for a word, by index; both must be complete."""
        opened = OpenStore(self.rag, self.store)
        words = opened.lexical.refresh()
        meaning = opened.dense.refresh()
        ids = {chunk[0] for chunks in self.chunks().values() for chunk in chunks}
        assert set(meaning.contents()[0].tolist()) == ids
        assert len(words) == len(ids)
        by_words = [i for i, _ in words.search([word], 100)[0]]
        query = self.embedder.encode_queries([word])
        by_meaning = [i for i, score in meaning.search(query, 100)[0] if score > 0.2]
        held = self.store.chunks(sorted(ids))
        return {
            "words": {held[i].file for i in by_words},
            "meaning": {held[i].file for i in by_meaning},
        }
