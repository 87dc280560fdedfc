"""Batches of files, each of which counts its own, and the claims of those that ingest them."""

from __future__ import annotations

from pathlib import Path

from service_samples import add_file, count
from store_samples import DIM

from rag.store.blobs import Blobs
from rag.store.catalog import Catalog
from rag.store.database import Database
from rag.store.files import Files
from rag.store.pages import Slice
from rag.store.service_tables import BatchFileRow
from rag.store.store_files import Counts, Entry, StoreFiles
from rag.store.tables import DEFAULT_PROJECT
from rag.store.vector_stores import Maker, NewStore, VectorStores


def test_a_file_may_be_in_several_batches(db: Database, tmp_path: Path) -> None:
    stores, listed, files = VectorStores(db), StoreFiles(db), Files(db, Blobs(tmp_path / "blobs"))
    row = stores.create(DEFAULT_PROJECT, NewStore(), Maker("e1", DIM, "c1"))
    first_file, shared, last_file = (
        add_file(files, letter, name=f"{number}.txt").id
        for number, letter in enumerate((b"a", b"b", b"c"))
    )
    older = listed.new_batch(row.id, [Entry(first_file), Entry(shared)])
    newer = listed.new_batch(row.id, [Entry(shared), Entry(last_file)])

    def told(batch_id: str) -> Counts:
        found = listed.batch(row.id, batch_id)
        assert found is not None
        return found[1]

    assert told(older.id) == told(newer.id) == Counts(in_progress=2)
    page = listed.page(row.id, Slice(order="asc"), batch_id=older.id).items
    assert sorted(place.file_id for place in page) == sorted([first_file, shared])

    listed.cancel_batch(older.id)

    assert told(older.id) == Counts(in_progress=1, cancelled=1), "the newer one still wants it"
    assert told(newer.id) == Counts(in_progress=2)
    listed.cancel_batch(newer.id)
    assert told(older.id) == told(newer.id) == Counts(cancelled=2)

    Catalog(db).delete(row.name)
    assert count(db, BatchFileRow) == 0


def test_a_batch_that_is_done_cannot_be_cancelled(db: Database, tmp_path: Path) -> None:
    stores, listed, files = VectorStores(db), StoreFiles(db), Files(db, Blobs(tmp_path / "blobs"))
    row = stores.create(DEFAULT_PROJECT, NewStore(), Maker("e1", DIM, "c1"))
    batch = listed.new_batch(row.id, [Entry(add_file(files, b"a").id)])
    claimed = listed.claim("w")
    assert claimed is not None
    listed.fail(claimed[0], "invalid_file", "It is damaged.")

    listed.cancel_batch(batch.id)

    found = listed.batch(row.id, batch.id)
    assert found is not None
    assert not found[0].cancelled
    assert found[1] == Counts(failed=1)


def test_a_claim_stays_until_it_is_given_back(db: Database, tmp_path: Path) -> None:
    stores, listed, files = VectorStores(db), StoreFiles(db), Files(db, Blobs(tmp_path / "blobs"))
    store = stores.create(DEFAULT_PROJECT, NewStore(), Maker("e1", DIM, "c1"))
    file = add_file(files, b"text").id
    listed.add(store.id, [Entry(file)])
    assert listed.claimed() == []

    assert listed.claim("dead") is not None
    assert listed.claim("next") is None
    (row,) = listed.claimed()
    assert (row.file_id, row.worker) == (file, "dead")
    listed.release(row)

    assert listed.claimed() == []
    assert listed.claim("next") is not None
    listed.release(row)  # it is not his any more
    (row,) = listed.claimed()
    assert row.worker == "next"
