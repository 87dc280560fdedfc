"""Sketches lie beside their documents, are found by their smallest hashes, and go with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from service_samples import count
from store_samples import make_store, new_document

from rag.store.catalog import Catalog
from rag.store.database import Database
from rag.store.sketches import KEYS, Sketch, StoreSketches
from rag.store.tables import SketchKeyRow, SketchRow


def made(*hashes: int) -> Sketch:
    return np.array(sorted(hashes), np.uint64)


def test_documents_that_share_the_most_come_first(db: Database) -> None:
    store, other = make_store(db), make_store(db, "other")
    high = 2**64 - 1  # beyond what a database's integers hold
    sketches = {"a": made(1, 2, 3, 4, 5), "b": made(1, 2, 3, high), "c": made(7), "d": made(5)}
    new = [replace(new_document(name), sketch=sketch) for name, sketch in sketches.items()]
    store.commit([*new, new_document("none"), replace(new_document("empty"), sketch=made())])
    other.commit([replace(new_document("x"), sketch=made(1, 2, 3, 4))])
    found = StoreSketches(db, store.id)

    likely = found.likely(made(1, 2, 3, high), but="")
    assert [one.name for one in likely] == ["b", "a"]
    assert [one.sketch.tolist() for one in likely] == [
        sketches[name].tolist() for name in ("b", "a")
    ]
    assert [one.name for one in found.likely(made(1, 2, 3, 4), but="b")] == ["a"]
    assert [one.name for one in found.likely(made(5, 6), but="")] == ["d"], "keys: the smallest"
    assert found.likely(made(), but="") == []


def test_they_go_with_their_documents(db: Database) -> None:
    store = make_store(db)
    store.commit([replace(new_document(name), sketch=made(1, 2, 3, 4, 5)) for name in "abc"])
    assert (count(db, SketchRow), count(db, SketchKeyRow)) == (3, 3 * KEYS)
    store.delete(["a"])
    store.commit([replace(new_document("b", 2), sketch=made(9))])
    assert (count(db, SketchRow), count(db, SketchKeyRow)) == (2, KEYS + 1)
    Catalog(db).delete("default")
    assert (count(db, SketchRow), count(db, SketchKeyRow)) == (0, 0)


def test_a_hash_that_many_have_is_looked_up_in_a_bounded_number(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.store.sketches._MOST_OF_A_KEY", 3)
    store = make_store(db)
    store.commit([replace(new_document(str(n)), sketch=made(1)) for n in range(9)])
    likely = StoreSketches(db, store.id).likely(made(1), but="")
    assert [one.name for one in likely] == ["0", "1", "2"]
