"""Whatever happens in whatever order, documents, files, lists and the change log agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import NewDatabase
from service_samples import add_file, check_lists_agree, check_nothing_is_left
from sqlalchemy import select
from store_samples import DIM, live, log_of, new_document, replay

from rag.store.blobs import Blobs
from rag.store.catalog import Catalog
from rag.store.corpus import Store
from rag.store.database import Database
from rag.store.files import Files
from rag.store.service_tables import StoreFileRow
from rag.store.store_files import Entry, StoreFiles
from rag.store.tables import DEFAULT_PROJECT
from rag.store.vector_stores import Maker, NewStore, VectorStores

ACTIONS = (
    "ingest", "ingest", "ingest folder", "put", "claim", "commit", "fail", "postpone", "cancel",
    "remove", "delete file", "delete document", "delete store", "reindex",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase) -> Iterator[Files]:
    folder = tmp_path_factory.mktemp("lists")
    db = Database(new_database(folder))
    yield Files(db, Blobs(folder / "blobs"))
    db.close()


class World:
    """Two stores, two files, two workers."""

    def __init__(self, files: Files) -> None:
        self.db = files._db
        self.files = files
        self.stores = VectorStores(self.db)
        self.listed = StoreFiles(self.db)
        self.open = [self.make(0), self.make(1)]
        self.uploaded = [add_file(files, b"x").id, add_file(files, b"x").id]
        self.hands: list[StoreFileRow | None] = [None, None]

    def make(self, place: int) -> Store:
        maker = Maker("e1", DIM, "c1")
        row = self.stores.create(DEFAULT_PROJECT, NewStore(title=f"s{place}"), maker)
        return self.stores.open(row)

    def act(self, action: str, place: int, which: int, version: int) -> None:
        store, file, hand = self.open[place], self.uploaded[which], self.hands[which]
        worker = f"w{which}"
        if action == "ingest":
            for part in ("put", "claim", "commit"):
                self.act(part, place, which, version)
        elif action == "put":
            batch = self.listed.new_batch(store.id)
            self.listed.add(store.id, [Entry(file)], batch.id)
        elif action == "claim":
            claimed = self.listed.claim(worker)
            self.hands[which] = claimed[0] if claimed else None
        elif action == "commit" and hand is not None and self.stores.find(hand.store_id):
            new = new_document("a.txt", version)
            target = next(each for each in self.open if each.id == hand.store_id)
            target.commit_file(replace(new, source=hand.file_id, file_id=hand.file_id), worker)
        elif action == "fail" and hand is not None:
            self.listed.fail(hand, "server_error", "x")
        elif action == "postpone" and hand is not None:
            self.listed.postpone(hand, 0)
        elif action == "cancel":
            row = self.listed.get(store.id, file)
            if row is not None and row.batch_id:
                self.listed.cancel_batch(row.batch_id)
        elif action == "remove":
            store.remove_file(file)
        else:
            self.act_on_store(action, place, which, version)

    def act_on_store(self, action: str, place: int, which: int, version: int) -> None:
        store = self.open[place]
        if action == "delete file" and self.files.delete(self.uploaded[which]):
            self.uploaded[which] = add_file(self.files, b"x").id
        elif action == "ingest folder":
            store.commit([new_document(f"{which}.md", version)])
        elif action == "delete document":
            store.delete(list(store.hashes())[: which + 1])
        elif action == "delete store":
            Catalog(self.db).delete(store.name)
            self.open[place] = self.make(place)
        elif action == "reindex":
            catalog, begin = Catalog(self.db), store.seq()
            shadow = catalog.create("~shadow", embedder="e1", dim=DIM, chunker="c1")
            shadow.commit(
                replace(
                    new_document(info.name, version),
                    source=info.source,
                    sha256=info.sha256,
                    file_id=info.file_id,
                )
                for info in store.documents()
            )
            if version == 2:
                store.commit([new_document("late.md", version)])
            if not store.replace_all(shadow, begin):
                catalog.delete("~shadow")


step = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1), st.integers(0, 1), st.integers(1, 3))


@settings(deadline=None, max_examples=12)
@given(steps=st.lists(step, min_size=15, max_size=30))
def test_lists_documents_and_log_agree_after_every_step(
    files: Files, steps: list[tuple[str, int, int, int]]
) -> None:
    world = World(files)
    try:
        for each in steps:
            world.act(*each)
            check_lists_agree(world.db)
            for store in world.open:
                assert replay(log_of(world.db, store), store.seq()) == live(world.db, store)
            with world.db.read() as session:
                rows = session.scalars(select(StoreFileRow)).all()
            assert all(row.worker is None or row.status == "in_progress" for row in rows)
    finally:
        for store in world.open:
            Catalog(world.db).delete(store.name)
        for file in world.uploaded:
            assert files.delete(file)
    check_nothing_is_left(world.db)
