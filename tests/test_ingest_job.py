"""Reindexing, deleting and pruning where files are listed; stores that stay open meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from service_samples import check_lists_agree, check_nothing_is_left, count
from upload_bench import Bench, Moved

from ingest.job import delete_files, delete_store, ingest_paths, reindex_store
from rag.opened import OpenStores
from rag.store.corpus import Store
from rag.store.service_tables import FileRow, StoreFileRow
from rag.testing import FakeEmbedder


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Iterator[Bench]:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    made = Bench(tmp_path / "home")
    yield made
    made.rag.db.close()


LONG = " ".join(f"Valve {n} opens at {n} bar and closes at {n + 1} bar." for n in range(30))


def chunks_of(store: Store) -> dict[str, int]:
    return {info.file_id: info.chunks for info in store.documents()}


def test_reindexing_keeps_files_and_their_own_chunk_sizes(bench: Bench, tmp_path: Path) -> None:
    store = bench.store("valves")
    plain = bench.put(store, LONG, "plain.txt")
    small = bench.put(store, LONG, "small.txt", chunk_tokens=20, chunk_overlap=0)
    overlapping = bench.put(store, LONG, "over.txt", chunk_tokens=40, chunk_overlap=20)
    bad = bench.put(store, LONG, "bad.txt", chunk_tokens=5)  # fewer than a chunk can have
    bench.drain()
    (tmp_path / "folder.txt").write_text(LONG)
    ingest_paths(bench.rag, "valves", [tmp_path / "folder.txt"])
    before = chunks_of(store)
    assert before[small] == 30
    assert before[overlapping] > 30 * 10 / 40 > before[plain]
    bench.listed.set_attributes(store.id, plain, {"year": 2024})
    places = {info.file_id: bench.state(store, info.file_id) for info in store.documents()}

    other = Bench(tmp_path / "home", Moved("other"), chunk_tokens=60, chunk_overlap=0)
    reindex_store(other.rag, "valves")

    after = chunks_of(other.stores.open(_row(other, store)))
    assert after.keys() == before.keys()
    assert {file: after[file] for file in (small, overlapping)} == {
        file: before[file] for file in (small, overlapping)
    }
    assert after[plain] > before[plain]
    assert count(other.rag.db, FileRow) == 5
    assert bench.state(store, bad).status == "failed"
    for file, old in places.items():
        new = other.state(store, file)
        assert (new.status, new.attributes, new.created_at) == (
            "completed",
            old.attributes,
            old.created_at,
        )
        assert (new.chunk_tokens, new.chunk_overlap) == (old.chunk_tokens, old.chunk_overlap)
    assert other.state(store, plain).usage_bytes > places[plain].usage_bytes
    assert other.state(store, small).usage_bytes == places[small].usage_bytes
    check_lists_agree(other.rag.db)
    assert small in other.found(other.stores.open(_row(other, store)), "valve 7")
    other.rag.db.close()


@pytest.mark.parametrize("emptied", [False, True])
def test_an_empty_store_is_reindexed_too(bench: Bench, tmp_path: Path, emptied: bool) -> None:
    store = bench.store()
    if emptied:
        file = bench.put(store, "The pump needs oil.")
        assert bench.drain()
        store.remove_file(file)
    other = Bench(tmp_path / "home", Moved("other"), chunk_tokens=60, chunk_overlap=0)

    report = reindex_store(other.rag, "s")

    assert (report.documents, report.chunks, report.embedder) == (0, 0, "other:64")
    anew = other.rag.catalog.get("s")
    assert (anew.embedder, "max=60" in anew.chunker) == ("other:64", True)
    file = other.put(anew, "The valve is blue.")
    assert other.drain()
    assert other.found(anew, "valve") == [file]
    assert [info.name for info in other.rag.catalog.stores()] == ["s"]
    other.rag.db.close()


def _row(bench: Bench, store: Store) -> Any:
    row = bench.stores.find(store.id)
    assert row is not None
    return row


def test_a_store_embedded_anew_by_another_process_is_opened_anew(
    bench: Bench, tmp_path: Path
) -> None:
    store = bench.store()
    bench.put(store, "The pump needs oil.")
    bench.drain()
    first = bench.opened.get(store)
    first.dense.refresh()
    assert bench.opened.get(store) is first

    other = Bench(tmp_path / "home", FakeEmbedder(name="other"))
    reindex_store(other.rag, "s")
    bench.opened.save()

    anew = bench.opened.get(bench.stores.open(_row(bench, store)))
    assert anew is not first
    assert anew.store.embedder == "other:64"
    other.rag.db.close()


def test_few_stores_are_kept_open(bench: Bench) -> None:
    opened = OpenStores(bench.rag, most=2)
    stores = [bench.store(f"s{number}") for number in range(3)]
    first, second = opened.get(stores[0]), opened.get(stores[1])
    assert opened.get(stores[0]) is first
    third = opened.get(stores[2])
    assert opened.get(stores[0]) is first
    assert opened.get(stores[2]) is third
    assert opened.get(stores[1]) is not second
    opened.drop(stores[1].id)
    opened.drop("vs_none")
    opened.save()


# -- the command line's verbs ----------------------------------------------------------------------


def test_deleting_and_pruning_leave_no_rows_behind(bench: Bench, tmp_path: Path) -> None:
    db, folder = bench.rag.db, tmp_path / "docs"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.txt").write_text(f"Valve {name} is blue.")
    ingest_paths(bench.rag, "cli", [folder])
    assert count(db, FileRow) == count(db, StoreFileRow) == 3
    (folder / "b.txt").write_text("Valve b is red.")
    (folder / "c.txt").unlink()

    report = ingest_paths(bench.rag, "cli", [folder], prune=True)

    assert report.pruned == ("c.txt",)
    assert count(db, FileRow) == count(db, StoreFileRow) == 2
    check_lists_agree(db)
    assert delete_files(bench.rag, "cli", ["a.txt"]) == 1
    assert count(db, FileRow) == count(db, StoreFileRow) == 1
    uploaded = bench.put(bench.rag.catalog.get("cli"), "An uploaded valve.")
    bench.drain()
    check_lists_agree(db)
    assert delete_store(bench.rag, "cli") == 2
    check_nothing_is_left(db, files=1)
    assert bench.files.delete(uploaded)
    check_nothing_is_left(db)
