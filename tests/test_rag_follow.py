"""DenseFollower: a cache that is missing, torn, stale or shared still equals the store."""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres import CopyDatabase
from safetensors.numpy import load_file, save_file
from store_samples import DIM, make_store, new_document

from rag.errors import IndexMismatch, StorageError, UnknownStore
from rag.index.dense import FaissIndex
from rag.index.follow import DenseFollower, LexicalFollower
from rag.schema import FloatArray, IntArray
from rag.store.catalog import Catalog
from rag.store.corpus import Store
from rag.store.database import Database
from rag.testing import FakeLexicalIndex


@pytest.fixture
def store(db: Database) -> Store:
    made = make_store(db)
    made.commit([new_document("a", 1), new_document("b", 2, 3)])
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "indexes"


@pytest.fixture
def snapshot(folder: Path) -> Path:
    return folder / "dense.safetensors"


def dense(store: Store, folder: Path) -> DenseFollower:
    return DenseFollower(store, folder, lambda: FaissIndex(store.dim, device="cpu"))


def held(index: FaissIndex) -> dict[int, tuple[float, ...]]:
    ids, vectors = index.contents()
    return dict(zip(ids.tolist(), map(tuple, vectors.tolist()), strict=True))


def truth(store: Store) -> dict[int, tuple[float, ...]]:
    found: dict[int, tuple[float, ...]] = {}
    for ids, vectors in store.vectors(store.delta(0).added):
        found |= dict(zip(ids.tolist(), map(tuple, vectors.tolist()), strict=True))
    return found


class Counted:
    """A store that counts what is read from it."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.vectors = 0
        read = store.vectors

        def counting(ids: list[int]) -> Iterator[tuple[IntArray, FloatArray]]:
            self.vectors += len(ids)
            return read(ids)

        monkeypatch.setattr(store, "vectors", counting)


# -- dense -----------------------------------------------------------------------------------------


def test_follows_every_change(store: Store, folder: Path) -> None:
    follower = dense(store, folder)
    assert held(follower.refresh()) == truth(store)

    for act in (
        lambda: store.commit([new_document("c", 3)]),
        lambda: store.delete(["a"]),
        lambda: store.commit([new_document("b", 1)]),
        lambda: store.delete(["b", "c"]),
        lambda: store.commit([new_document("a", 1)]),
    ):
        act()
        assert held(follower.refresh()) == truth(store)
    assert len(follower.refresh()) == 2


def test_an_empty_store_has_an_empty_index(db: Database, folder: Path) -> None:
    store = make_store(db, "empty")
    follower = dense(store, folder)
    assert len(follower.refresh()) == 0

    follower.save()

    assert len(dense(store, folder).refresh()) == 0


def test_a_snapshot_saves_reading_the_store(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense(store, folder).save()
    store.commit([new_document("c", 3)])
    store.delete(["a"])
    counted = Counted(store, monkeypatch)

    index = dense(store, folder).refresh()

    assert counted.vectors == 2
    assert held(index) == truth(store)


def test_an_unchanged_index_is_not_written_again(
    store: Store, folder: Path, snapshot: Path
) -> None:
    follower = dense(store, folder)
    follower.save()
    before = snapshot.stat()
    follower.save()
    dense(store, folder).save()
    assert snapshot.stat().st_ino == before.st_ino

    store.delete(["a"])
    follower.save()
    assert snapshot.stat().st_ino != before.st_ino
    assert os.listdir(folder) == [snapshot.name]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("commit"), st.sampled_from("abcd"), st.integers(1, 3)),
            st.tuples(st.just("delete"), st.sampled_from("abcd"), st.just(0)),
            st.tuples(st.sampled_from(["refresh", "save", "restart"]), st.just(""), st.just(0)),
        ),
        max_size=10,
    )
)
def test_in_steps_or_at_once_the_same_index(
    db: Database, tmp_path: Path, steps: list[tuple[str, str, int]]
) -> None:
    store = make_store(db, f"store {time.monotonic_ns()}")
    folder = tmp_path / store.id
    follower = dense(store, folder)
    words = LexicalFollower(store, FakeLexicalIndex())
    for act, name, version in steps:
        if act == "commit":
            store.commit([new_document(name, version, chunks=version)])
        elif act == "delete" and name in store.hashes():
            store.delete([name])
        elif act == "refresh":
            follower.refresh()
            words.refresh()
        elif act == "save":
            follower.save()
        elif act == "restart":
            follower = dense(store, folder)

    stepwise, fresh = follower.refresh(), dense(store, tmp_path / "none").refresh()
    assert held(stepwise) == held(fresh) == truth(store)
    asked = np.eye(DIM, dtype=np.float32)
    assert stepwise.search(asked, 3) == fresh.search(asked, 3)
    at_once = LexicalFollower(store, FakeLexicalIndex()).refresh()
    assert words.refresh().search(["a b c d v1 v2"], 99) == at_once.search(["a b c d v1 v2"], 99)


def rewrite(path: Path, **changes: str) -> None:
    """Save the snapshot again, with other metadata."""
    tensors = load_file(path)
    header = path.read_bytes()
    (length,) = struct.unpack("<Q", header[:8])
    metadata = json.loads(header[8 : 8 + length])["__metadata__"]
    save_file(tensors, path, metadata | changes)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.unlink(), id="missing"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"\x00" * 500), id="zeros"),
        pytest.param(lambda path: path.write_bytes(b"\xff" * 500), id="ones"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"x"), id="longer"),
        pytest.param(lambda path: save_file({}, path), id="no tensors"),
        pytest.param(lambda path: save_file({"ids": np.arange(3)}, path), id="no metadata"),
        pytest.param(lambda path: rewrite(path, format="0"), id="older format"),
        pytest.param(lambda path: rewrite(path, embedder="e0"), id="other embedder"),
        pytest.param(lambda path: rewrite(path, store="vs_other"), id="other store"),
        pytest.param(lambda path: rewrite(path, seq="1"), id="other seq"),
        pytest.param(lambda path: rewrite(path, seq="²"), id="seq that is no number"),
        pytest.param(lambda path: rewrite(path, digest=""), id="other digest"),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), id="a folder"),
    ],
)
def test_a_useless_snapshot_is_rebuilt(
    store: Store, folder: Path, snapshot: Path, spoil: Callable[[Path], object]
) -> None:
    dense(store, folder).save()
    spoil(snapshot)

    assert held(dense(store, folder).refresh()) == truth(store)


def test_a_snapshot_cut_anywhere_is_rebuilt(store: Store, folder: Path, snapshot: Path) -> None:
    dense(store, folder).save()
    whole, expected = snapshot.read_bytes(), truth(store)

    for length in range(0, len(whole), 3):
        snapshot.write_bytes(whole[:length])
        assert held(dense(store, folder).refresh()) == expected


def test_no_flipped_byte_ever_gives_a_wrong_index(
    store: Store, folder: Path, snapshot: Path
) -> None:
    dense(store, folder).save()
    whole, expected = snapshot.read_bytes(), truth(store)

    for place in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << place % 8
        snapshot.write_bytes(spoilt)
        assert held(dense(store, folder).refresh()) == expected, f"byte {place}"


@pytest.mark.parametrize("written_past", [False, True])
def test_a_snapshot_of_a_history_that_a_backup_replaced_is_rebuilt(
    db: Database,
    database_url: str,
    copy_database: CopyDatabase,
    store: Store,
    folder: Path,
    written_past: bool,
) -> None:
    db.close()  # its connections, that is: it opens others
    backup = copy_database(database_url, "backup")
    follower = dense(store, folder)
    store.commit([new_document("later", 3)])
    follower.save()
    lost = truth(store)
    db.close()
    copy_database(backup, database_url)
    if written_past:  # other chunks now have the ids that the lost ones had
        store.commit([new_document("instead", 4), new_document("and more", 5)])

    assert truth(store) != lost
    assert held(follower.refresh()) == truth(store)
    assert held(dense(store, folder).refresh()) == truth(store)


def test_a_refresh_that_broke_off_is_done_again(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = dense(store, folder)
    follower.refresh()
    store.commit([new_document("long", 1, chunks=700), new_document("a", 2)])
    read = store.vectors

    def breaking(ids: list[int]) -> Iterator[tuple[IntArray, FloatArray]]:
        yield next(iter(read(ids)))
        raise StorageError("locked")

    with monkeypatch.context() as patched:
        patched.setattr(store, "vectors", breaking)
        with pytest.raises(StorageError, match="locked"):
            follower.refresh()

    assert held(follower.refresh()) == truth(store)


def test_a_deleted_store_is_said(db: Database, store: Store, folder: Path) -> None:
    follower = dense(store, folder)
    follower.save()
    Catalog(db).delete("default")

    for refresh in (follower.refresh, dense(store, folder).refresh, follower.save):
        with pytest.raises(UnknownStore, match="has been deleted"):
            refresh()


def test_a_reindexed_store_is_said_and_its_snapshot_not_used(
    db: Database, store: Store, folder: Path
) -> None:
    follower = dense(store, folder)
    follower.save()
    shadow = make_store(db, "~x", embedder="e2")
    shadow.commit([new_document("a", 3)])
    fresh = Catalog(db).get("default")
    assert fresh.replace_all(shadow, fresh.seq())

    with pytest.raises(IndexMismatch):
        follower.refresh()
    assert held(dense(fresh, folder).refresh()) == truth(fresh)


def test_a_snapshot_that_cannot_be_written_leaves_the_old_one(
    store: Store, folder: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = dense(store, folder)
    follower.save()
    before = snapshot.read_bytes()
    store.commit([new_document("c", 3)])

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(StorageError, match="disk is full"):
            follower.save()

    assert snapshot.read_bytes() == before
    assert os.listdir(folder) == [snapshot.name]
    assert held(follower.refresh()) == truth(store)
    follower.save()
    assert snapshot.read_bytes() != before


def test_a_folder_that_cannot_be_made_is_a_storage_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(StorageError, match="file"):
        dense(store, tmp_path / "file" / "indexes").save()


def test_what_a_killed_save_left_behind_is_cleared_in_time(
    store: Store, folder: Path, snapshot: Path
) -> None:
    folder.mkdir()
    old, young = (folder / f"{snapshot.name}.{name}" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))

    dense(store, folder).save()

    assert sorted(os.listdir(folder)) == sorted([snapshot.name, young.name])


def test_followers_in_many_threads_share_store_and_folder(
    db: Database, store: Store, folder: Path
) -> None:
    shared = dense(store, folder)
    stop = threading.Event()

    def change() -> None:
        for number in range(12):
            store.commit([new_document("a", 1 + number), new_document(f"n{number}", 1)])
        stop.set()

    def follow(own: bool) -> bool:
        follower = dense(store, folder) if own else shared
        while not stop.is_set():
            follower.save()
        return held(follower.refresh()) == truth(store)

    with ThreadPoolExecutor(5) as pool:
        changing = pool.submit(change)
        following = [pool.submit(follow, own) for own in (True, True, False, False)]
        changing.result(120)
        assert [future.result(120) for future in following] == [True] * 4
    assert held(dense(store, folder).refresh()) == truth(store)
