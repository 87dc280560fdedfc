"""LexicalFollower: killed half-way, shared between threads, ahead of the log; and on tantivy."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_samples import live, make_store, new_document

from rag.index.follow import LexicalFollower
from rag.index.lexical import TantivyIndex
from rag.store.corpus import Store
from rag.store.database import Database
from rag.testing import FakeLexicalIndex, check_lexical_index


@pytest.fixture
def store(db: Database) -> Store:
    made = make_store(db)
    made.commit([new_document("a", 1), new_document("b", 2, 3)])
    return made


class Breaking(FakeLexicalIndex):
    """An index that stops working after a number of calls to `apply`, as a killed process does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_left = 1000

    def apply(self, add: object, remove: object, seq: int) -> None:
        if self.calls_left == 0:
            raise KeyboardInterrupt
        self.calls_left -= 1
        super().apply(add, remove, seq)  # type: ignore[arg-type]


def found(index: FakeLexicalIndex) -> set[int]:
    return set(index._texts)


def test_the_fake_conforms() -> None:
    check_lexical_index(FakeLexicalIndex, durable=False)


def test_lexical_follows_and_does_nothing_when_nothing_changed(db: Database, store: Store) -> None:
    index = Breaking()
    follower = LexicalFollower(store, index)
    follower.refresh()
    assert found(index) == live(db, store)
    assert index.seq == store.seq()

    index.calls_left = 0
    follower.refresh()

    index.calls_left = 1
    store.commit([new_document("a", 2)])
    store.delete(["b"])
    follower.refresh()
    assert found(index) == live(db, store)


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_first_build_that_was_killed_leaves_nothing_stale(
    db: Database, store: Store, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.index.follow._TEXTS_AT_ONCE", 500)
    index = Breaking()
    store.commit([new_document("long", 1, chunks=1100)])
    index.calls_left = calls
    with pytest.raises(KeyboardInterrupt):
        LexicalFollower(store, index).refresh()
    index.calls_left = 1000
    store.delete(["a"])

    LexicalFollower(store, index).refresh()

    assert found(index) == live(db, store)
    assert index.seq == store.seq()


def test_a_later_refresh_that_was_killed_leaves_nothing_stale(
    db: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.index.follow._TEXTS_AT_ONCE", 500)
    index = Breaking()
    LexicalFollower(store, index).refresh()
    store.commit([new_document("long", 1, chunks=1100), new_document("a", 3)])
    index.calls_left = 1
    with pytest.raises(KeyboardInterrupt):
        LexicalFollower(store, index).refresh()
    index.calls_left = 1000
    store.delete(["long"])

    LexicalFollower(store, index).refresh()

    assert found(index) == live(db, store)


def test_an_index_ahead_of_the_log_is_emptied_first(db: Database, store: Store) -> None:
    index = FakeLexicalIndex()
    index.apply([(999, "from another database")], [], 10_000)

    LexicalFollower(store, index).refresh()

    assert found(index) == live(db, store)
    assert index.seq == store.seq()


def test_lexical_followers_in_threads_leave_nothing_stale(db: Database, store: Store) -> None:
    index = FakeLexicalIndex()
    stop = threading.Event()

    def follow(_number: int) -> None:
        follower = LexicalFollower(store, index)
        while not stop.is_set():
            follower.refresh()

    with ThreadPoolExecutor(3) as pool:
        following = pool.map(follow, range(3))
        for number in range(15):
            store.commit([new_document("a", 1 + number), new_document(f"n{number % 3}", number)])
        stop.set()
        assert list(following) == [None] * 3
    LexicalFollower(store, index).refresh()
    assert found(index) == live(db, store)


def test_tantivy_follows_a_store(db: Database, store: Store, tmp_path: Path) -> None:
    check_lexical_index(lambda: TantivyIndex.open(tmp_path / "conformance"))
    index = TantivyIndex.open(tmp_path / "words")
    follower = LexicalFollower(store, index)
    for act in (
        lambda: store.commit([new_document("c", 3)]),
        lambda: store.delete(["a"]),
        lambda: store.delete(["b", "c"]),
        lambda: store.commit([new_document("a", 1)]),
    ):
        act()
        ((*hits,),) = follower.refresh().search(["a b c v1 v2 v3"], 99)
        assert {key for key, _ in hits} == live(db, store)
        assert index.seq == store.seq()
