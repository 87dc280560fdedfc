"""Everything that takes part in ingesting uploads, for tests of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from inline_jobs import InlineJobs
from service_samples import add_file

from ingest.job import make_chunker, make_parsers
from rag.build import Rag
from rag.config import Settings
from rag.opened import OpenStores
from rag.schema import FloatArray
from rag.store.blobs import Blobs
from rag.store.corpus import Store
from rag.store.files import Files
from rag.store.service_tables import StoreFileRow
from rag.store.store_files import Entry, StoreFiles
from rag.store.tables import DEFAULT_PROJECT
from rag.store.vector_stores import Maker, NewStore, VectorStores
from rag.testing import FakeEmbedder


class Moved(FakeEmbedder):
    """Does something before it embeds a text that holds a word."""

    def __init__(self, name: str = "fake") -> None:
        super().__init__(name=name)
        self.at: dict[str, Callable[[], object]] = {}

    def encode_passages(self, texts: list[str]) -> FloatArray:  # type: ignore[override]
        for word, act in self.at.items():
            if any(word in text for text in texts):
                act()
        return super().encode_passages(texts)


class Bench:
    """Everything that takes part, over a home folder."""

    def __init__(self, home: Path, embedder: FakeEmbedder | None = None, **settings: Any) -> None:
        self.rag = Rag(Settings(home=home, **settings))
        self.embedder = embedder or Moved()
        self.rag.embedder = cast(Any, self.embedder)
        self.blobs = Blobs(home / "blobs")
        self.files = Files(self.rag.db, self.blobs)
        self.stores = VectorStores(self.rag.db)
        self.listed = StoreFiles(self.rag.db)
        self.opened = OpenStores(self.rag)
        self.reports: list[tuple[str, str, str, str]] = []
        self.work = InlineJobs(self.rag, report=self._report)

    def _report(self, store: str, file: str, status: str, seconds: float, message: str) -> None:
        assert seconds >= 0
        self.reports.append((store, file, status, message))

    def store(self, title: str = "s") -> Store:
        chunker = make_chunker(self.rag).fingerprint
        maker = Maker(self.embedder.fingerprint, self.embedder.dim, chunker)
        row = self.stores.create(DEFAULT_PROJECT, NewStore(title=title), maker)
        return self.stores.open(row)

    def put(self, store: Store, content: str | bytes, name: str = "a.txt", **sizes: int) -> str:
        """Upload a file and put it into a store; return its id."""
        data = content.encode() if isinstance(content, str) else content
        file = add_file(self.files, data, name=name)
        self.listed.add(store.id, [Entry(file.id, {}, **sizes)])
        return file.id

    def drain(self) -> bool:
        """Ingest everything that waits, with one parser; return whether nothing waits any more."""
        with make_parsers(self.rag) as pool:
            while self.work.next(pool):
                pass
        return self.listed.waiting() == 0

    def state(self, store: Store, file_id: str) -> StoreFileRow:
        row = self.listed.get(store.id, file_id)
        assert row is not None
        return row

    def found(self, store: Store, query: str) -> list[str]:
        """Ids of the files whose passages are found by words, best first."""
        index = self.opened.get(store).lexical.refresh()
        ids = [hit for hit, _ in index.search([query], 10)[0]]
        chunks = store.chunks(ids)
        return [chunks[hit].file_id for hit in ids]


FILLED = {"pump.txt": "The pump in hall four is blue. " * 30, "中.txt": "年假为十五天。" * 30}


def filled_bench(home: Path) -> Bench:
    """Return a bench with a store "s" of the files above, and one file in no store."""
    made = Bench(home)
    store = made.store()
    for name, text in FILLED.items():
        made.put(store, text, name)
    add_file(made.files, b"in no store", name="loose.bin")
    assert made.drain()
    return made


def moved(bench: Bench) -> dict[str, Callable[[], object]]:
    assert isinstance(bench.embedder, Moved)
    return bench.embedder.at


def wait_until(what: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
