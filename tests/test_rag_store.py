"""The store: documents, the change log that indexes follow, replacing everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import DIM, live, log_of, make_store, new_document, replay

from rag.errors import IndexMismatch, UnknownFile, UnknownStore
from rag.store.catalog import Catalog
from rag.store.corpus import Store
from rag.store.database import Database


@pytest.fixture
def store(db: Database) -> Store:
    return make_store(db)


# -- documents -------------------------------------------------------------------------------------


def test_what_is_stored_comes_back(store: Store) -> None:
    given = new_document("手册/a.md", version=3, root="/data")

    assert store.commit([given]) == {"手册/a.md": "added"}

    assert store.document("手册/a.md") == given.document
    assert store.hashes() == {"手册/a.md": given.sha256}
    (info,) = store.documents()
    assert (info.name, info.root, info.sha256, info.size) == (
        "手册/a.md",
        "/data",
        given.sha256,
        30,
    )
    assert (info.pages, info.chunks, info.characters) == (1, 2, len("手册/a.md v3"))
    assert (info.title, info.media_type) == ("标题 手册/a.md", "text/markdown")
    assert info.warnings == ("page 3 holds no text",)
    delta = store.delta(0)
    found = store.chunks(delta.added)
    assert [found[key].text for key in delta.added] == ["手册/a.md v3 #0", "手册/a.md v3 #1"]
    assert {chunk.file for chunk in found.values()} == {"手册/a.md"}
    assert [(found[key].start, found[key].end, found[key].page) for key in delta.added] == [
        (0, 1, 1),
        (1, 2, 2),
    ]
    ((ids, vectors),) = store.vectors(delta.added)
    assert ids.tolist() == delta.added
    assert np.array_equal(vectors, given.vectors)
    assert list(store.texts(delta.added)) == [
        [(key, f"手册/a.md\n手册/a.md v3 #{place}") for place, key in enumerate(delta.added)]
    ]


def test_the_same_bytes_are_left_alone_and_others_replace(db: Database, store: Store) -> None:
    store.commit([new_document("a", 1), new_document("b", 1)])
    before = live(db, store)

    outcomes = store.commit([new_document("a", 1), new_document("b", 2, 3), new_document("c")])

    assert outcomes == {"a": "unchanged", "b": "replaced", "c": "added"}
    assert len(live(db, store) & before) == 2
    assert store.document("b").text == "b v2"
    assert {info.name: info.chunks for info in store.documents()} == {"a": 2, "b": 3, "c": 2}


def test_one_name_twice_in_a_commit_leaves_the_last(db: Database, store: Store) -> None:
    store.commit([new_document("a", 1), new_document("a", 2)])

    assert store.document("a").text == "a v2"
    assert len(live(db, store)) == 2
    assert set(store.delta(0).added) == live(db, store)


def test_nothing_to_do_writes_no_log(store: Store) -> None:
    store.commit([new_document("a")])
    seq = store.seq()

    assert store.commit([new_document("a")]) == {"a": "unchanged"}
    assert store.commit([]) == {}
    assert store.delete([]) == 0

    assert store.seq() == seq


def test_a_document_without_chunks_can_be_stored(store: Store) -> None:
    assert store.commit([new_document("empty", chunks=0)]) == {"empty": "added"}
    assert store.seq() == 0
    assert store.documents()[0].chunks == 0


def test_delete_is_all_or_nothing(db: Database, store: Store) -> None:
    store.commit([new_document("a"), new_document("b"), new_document("c")])

    with pytest.raises(UnknownFile, match=r"no file 'x'; nothing was deleted"):
        store.delete(["a", "x"])
    assert set(store.hashes()) == {"a", "b", "c"}

    assert store.delete(["a", "c"]) == 4
    assert set(store.hashes()) == {"b"}
    assert len(live(db, store)) == 2


@pytest.mark.parametrize("count", [499, 500, 501, 1203])
def test_batches_lose_nothing(store: Store, count: int) -> None:
    store.commit([new_document("long", chunks=count)])
    ids = store.delta(0).added

    assert len(ids) == count
    assert [key for part in store.texts(ids) for key, _ in part] == ids
    assert [key for part, _ in store.vectors(ids) for key in part.tolist()] == ids
    assert list(store.chunks(ids)) == ids
    assert store.delete(["long"]) == count


def test_many_documents_are_deleted_in_one_call(db: Database, store: Store) -> None:
    names = [f"d{number}" for number in range(501)]
    store.commit([new_document(name, chunks=1) for name in names])

    before = store.seq()

    assert store.delete(names) == 501
    assert live(db, store) == set()
    deleted = [key for _, op, key in log_of(db, store) if op < 0]
    assert sorted(store.delta(before).removed) == sorted(deleted)


@pytest.mark.parametrize("shape", [(1, DIM), (3, DIM), (2, DIM + 1)])
def test_vectors_that_do_not_fit_are_refused_and_nothing_is_stored(
    db: Database, store: Store, shape: tuple[int, int]
) -> None:
    wrong = new_document("b")
    object.__setattr__(wrong, "vectors", np.zeros(shape, np.float32))

    with pytest.raises(ValueError, match="b: got vectors"):
        store.commit([new_document("a"), wrong])

    assert (store.seq(), store.hashes(), live(db, store)) == (0, {}, set())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_vector_that_float16_cannot_hold_is_refused(store: Store, bad: float) -> None:
    wrong = new_document("a")
    wrong.vectors[0, 0] = bad

    with pytest.raises(ValueError, match="a: "):
        store.commit([wrong])


def test_names_and_texts_of_any_characters(store: Store) -> None:
    names = ["a'; DROP TABLE chunks; --", "%", "_", "x\ny", "😀", "‮abc", "a" * 1000, "\x01"]
    store.commit([new_document(name) for name in names])

    assert set(store.hashes()) == set(names)
    for name in names:
        assert store.document(name).text == f"{name} v1"
    assert store.delete(names) == 2 * len(names)


def test_nul_becomes_a_character_that_every_database_can_hold(store: Store) -> None:
    assert store.commit([new_document("a\0b")]) == {"a\ufffdb": "added"}
    assert store.commit([new_document("a\0b")]) == {"a\ufffdb": "unchanged"}

    assert store.document("a\0b").text == "a\ufffdb v1"
    texts = [text for part in store.texts(store.delta(0).added) for _, text in part]
    assert texts == [f"a\ufffdb\na\ufffdb v1 #{place}" for place in range(2)]
    assert store.delete(["a\0b"]) == 2


@pytest.mark.parametrize("name", ["nothing", "\udcff", "\ud800x"])
def test_unknown_files_are_named(store: Store, name: str) -> None:
    with pytest.raises(UnknownFile, match="no file"):
        store.document(name)
    with pytest.raises(UnknownFile, match="no file"):
        store.delete([name])


# -- the change log --------------------------------------------------------------------------------

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("commit"),
            st.lists(
                st.tuples(st.sampled_from("abcd"), st.integers(1, 3), st.integers(0, 3)),
                max_size=3,
            ),
        ),
        st.tuples(st.just("delete"), st.sets(st.sampled_from("abcd"), max_size=2)),
        st.tuples(st.just("swap"), st.integers(0, 2)),
    ),
    max_size=6,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations=OPERATIONS)
def test_a_delta_from_any_moment_gives_what_is_there(
    db: Database, operations: list[tuple[str, object]]
) -> None:
    store = make_store(db, f"store {len(Catalog(db).stores())}")
    moments = {0: set[int]()}
    for kind, what in operations:
        if kind == "commit":
            assert isinstance(what, list)
            store.commit([new_document(*item) for item in what])
        elif kind == "delete":
            assert isinstance(what, set)
            store.delete(sorted(what & set(store.hashes())))
        else:
            shadow = make_store(db, "~shadow", embedder=f"e{what}")
            shadow.commit([new_document(name) for name in "ax"])
            assert store.replace_all(shadow, store.seq())
        moments[store.seq()] = live(db, store)

    log, now = log_of(db, store), live(db, store)
    numbers = [seq for seq, _, _ in log]
    assert numbers == sorted(set(numbers))
    assert store.seq() == max(numbers, default=0)
    for seq, held in moments.items():
        assert replay(log, seq) == held
    for seq in (0, *numbers, store.seq() + 1):
        delta = store.delta(seq)
        assert delta.seq == store.seq()
        assert not set(delta.added) & set(delta.removed)
        assert len(delta.added) == len(set(delta.added))
        assert delta.whole == (seq in (0, store.seq() + 1))
        before = set() if delta.whole else replay(log, seq)
        assert (before - set(delta.removed)) | set(delta.added) == now


def test_ids_are_never_used_again(db: Database, store: Store) -> None:
    store.commit([new_document("a")])
    first = live(db, store)
    store.delete(["a"])
    store.commit([new_document("a")])

    assert min(live(db, store)) > max(first)


def test_a_number_beyond_the_log_means_begin_again(store: Store) -> None:
    store.commit([new_document("a")])

    delta = store.delta(store.seq() + 1)

    assert (delta.whole, delta.seq, len(delta.added), delta.removed) == (True, store.seq(), 2, [])


def test_a_number_that_another_history_gave_out_means_begin_again(store: Store) -> None:
    store.commit([new_document("a")])
    before = store.seq()
    store.commit([new_document("b")])

    assert not store.delta(before).whole
    assert store.delta(before + 1).whole, "numbers between transactions are never given out"


def test_two_stores_do_not_see_each_other(db: Database) -> None:
    one, two = make_store(db, "one"), make_store(db, "two")
    one.commit([new_document("a")])
    two.commit([new_document("a", 2), new_document("b")])

    assert (len(log_of(db, one)), len(log_of(db, two))) == (2, 4)
    assert one.document("a").text == "a v1"
    assert one.chunks(two.delta(0).added) == {}
    assert set(one.delta(0).added) | set(two.delta(0).added) == live(db, one) | live(db, two)
    assert two.delete(["a"]) == 2
    assert set(one.hashes()) == {"a"}


# -- replacing everything (reindex) ----------------------------------------------------------------


def test_replace_all_takes_documents_embedder_and_chunker(db: Database, store: Store) -> None:
    store.commit([new_document("a"), new_document("old")])
    old = live(db, store)
    shadow = Catalog(db).create("~x", embedder="e2", dim=2, chunker="c2")
    changed = new_document("a", 2)
    object.__setattr__(changed, "vectors", np.eye(2, dtype=np.float32))
    shadow.commit([changed])
    before = store.seq()

    assert store.replace_all(shadow, before)

    assert (store.embedder, store.dim, store.chunker) == ("e2", 2, "c2")
    assert store.document("a").text == "a v2"
    assert set(store.hashes()) == {"a"}
    delta = store.delta(before)
    assert set(delta.removed) == old
    assert set(delta.added) == live(db, store)
    ((_, vectors),) = store.vectors(delta.added)
    assert vectors.shape == (2, 2)
    catalog = Catalog(db)
    assert catalog.find("~x") is None
    assert catalog.get("default").embedder == "e2"
    with pytest.raises(UnknownStore):
        shadow.seq()


def test_replace_all_gives_way_to_a_change_in_between(db: Database, store: Store) -> None:
    store.commit([new_document("a")])
    shadow = make_store(db, "~x", embedder="e2")
    shadow.commit([new_document("a", 2)])
    began = store.seq()
    store.commit([new_document("b")])

    assert not store.replace_all(shadow, began)

    assert set(store.hashes()) == {"a", "b"}
    assert store.embedder == "e1"
    assert set(shadow.hashes()) == {"a"}


def test_a_run_that_began_before_a_reindex_cannot_mix_embedders(db: Database) -> None:
    make_store(db).commit([new_document("a")])
    late = Catalog(db).get("default")
    shadow = make_store(db, "~x", embedder="e2")
    store = Catalog(db).get("default")
    assert store.replace_all(shadow, store.seq())

    for act in (
        lambda: late.commit([new_document("b")]),
        lambda: late.delta(0),
        lambda: late.seq(),
    ):
        with pytest.raises(IndexMismatch, match=r"e1, now e2"):
            act()
    assert store.hashes() == {}


def test_a_run_that_began_before_a_reindex_cannot_mix_chunkers(db: Database) -> None:
    make_store(db).commit([new_document("a")])
    late = Catalog(db).get("default")
    shadow = make_store(db, "~x", chunker="c2")
    store = Catalog(db).get("default")
    assert store.replace_all(shadow, store.seq())

    with pytest.raises(IndexMismatch, match=r"c1, now c2"):
        late.commit([new_document("b")])
    assert late.seq() == store.seq(), "what was there before is still found"
    assert late.delete(["gone"], missing_ok=True) == 0
    assert store.hashes() == {}
