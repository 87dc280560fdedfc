"""Searching among some of the passages: the same as if the others were left out before ranking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tantivy
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.index.allowed import checked, find
from rag.index.analyze import Analyzer
from rag.index.bm25 import Commit
from rag.index.dense import FaissIndex
from rag.index.lexical import TantivyIndex
from rag.protocols import Embedder
from rag.retrieve import Retriever, System
from rag.schema import Chunk, FloatArray, IntArray, Ranking
from rag.testing import FakeEmbedder, FakeTokens

ANALYZER = Analyzer()
WORDS = ["pump", "oil", "seal", "valve", "水泵", "年假", "泵"]
SYSTEMS: tuple[System, ...] = ("hybrid", "rrf", "dense", "bm25")


def array(ids: set[int]) -> IntArray:
    return np.array(sorted(ids), np.int64)


def unit_rows(count: int, dim: int, seed: int) -> FloatArray:
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


# -- the array of ids ----------------------------------------------------------------------------


@given(st.lists(st.integers(-5, 20), max_size=12), st.sets(st.integers(-5, 20), max_size=12))
def test_find_looks_ids_up(ids: list[int], held: set[int]) -> None:
    present, places = find(np.array(ids, np.int64), array(held))
    assert present.tolist() == [id_ in held for id_ in ids]
    assert array(held)[places[present]].tolist() == [id_ for id_ in ids if id_ in held]


@pytest.mark.parametrize(
    "wrong", [np.array([2, 1]), np.array([1, 1]), np.array([]), np.array([[1]]), np.array([1.0])]
)
def test_what_is_no_ascending_array_of_ids_is_refused(wrong: IntArray) -> None:
    with pytest.raises(ValueError, match="allowed"):
        checked(wrong)


# -- the dense index -----------------------------------------------------------------------------

ROWS = st.dictionaries(st.integers(1, 60), st.tuples(*[st.integers(-2, 2)] * 4), max_size=40)


@settings(max_examples=80, deadline=None)
@given(
    rows=ROWS,
    gone=st.sets(st.integers(1, 60), max_size=5),
    allowed=st.sets(st.integers(1, 70), max_size=60),
    queries=st.lists(st.tuples(*[st.integers(-2, 2)] * 4), min_size=1, max_size=22),
    top_k=st.integers(1, 45),
)
def test_dense_equals_brute_force_over_the_allowed(
    rows: dict[int, tuple[int, ...]],
    gone: set[int],
    allowed: set[int],
    queries: list[tuple[int, ...]],
    top_k: int,
) -> None:
    index = FaissIndex(4, device="cpu")
    for part in (list(rows)[::2], list(rows)[1::2]):  # not in the order of ids
        vectors = np.array([rows[id_] for id_ in part], np.float32).reshape(-1, 4)
        index.add(np.array(part, np.int64), vectors)
        index.search(np.ones((1, 4), np.float32), 1, array(allowed))  # a change must be noticed
    index.remove(array(gone))
    here = {id_: row for id_, row in rows.items() if id_ in allowed - gone}
    expected = [
        sorted(
            ((id_, float(np.dot(row, query))) for id_, row in here.items()),
            key=lambda hit: (-hit[1], hit[0]),
        )[:top_k]
        for query in queries
    ]
    assert index.search(np.array(queries, np.float32), top_k, array(allowed)) == expected


@pytest.mark.parametrize("queries", [1, 25])
@pytest.mark.parametrize("count", [3, 90, 2000, 2999, 3000])
def test_dense_among_many_equals_an_index_of_those_alone(queries: int, count: int) -> None:
    dim = 48
    rows, ids = unit_rows(3000, dim, 1), np.arange(1, 3001, dtype=np.int64) * 2
    index, alone = FaissIndex(dim, device="cpu"), FaissIndex(dim, device="cpu")
    index.add(ids, rows)
    chosen = np.sort(np.random.default_rng(2).permutation(3000)[:count])
    alone.add(ids[chosen], rows[chosen])
    asked = unit_rows(queries, dim, 3)
    pairs = zip(index.search(asked, 100, ids[chosen]), alone.search(asked, 100), strict=True)
    for found, expected in pairs:
        assert [id_ for id_, _ in found] == [id_ for id_, _ in expected]
        scores = [score for _, score in expected]
        assert [score for _, score in found] == pytest.approx(scores, abs=2e-6)


@pytest.mark.parametrize("queries", [1, 25])
@pytest.mark.parametrize("top_k", [1, 50, 300])
def test_equal_vectors_are_cut_at_the_lowest_allowed_ids(queries: int, top_k: int) -> None:
    kinds = unit_rows(3, 48, 6)
    ids = np.random.default_rng(7).permutation(1000).astype(np.int64) + 1
    index = FaissIndex(48, device="cpu")
    index.add(ids, kinds[ids % 3])
    allowed = np.arange(2, 1001, 2, dtype=np.int64)
    asked = unit_rows(queries, 48, 8)
    for query, ranking in zip(asked, index.search(asked, top_k, allowed), strict=True):
        by_kind = np.argsort(-(kinds @ query), kind="stable")
        expected = [id_ for kind in by_kind for id_ in allowed[allowed % 3 == kind].tolist()]
        assert [id_ for id_, _ in ranking] == expected[:top_k]


@pytest.mark.gpu
def test_the_allowed_are_searched_on_the_cpu() -> None:
    rows, ids = unit_rows(5000, 32, 4), np.arange(1, 5001, dtype=np.int64)
    on_gpu, on_cpu = FaissIndex(32, device="gpu"), FaissIndex(32, device="cpu")
    for index in (on_gpu, on_cpu):
        index.add(ids, rows)
    asked = unit_rows(9, 32, 5)
    assert on_gpu.search(asked, 50, ids[::3]) == on_cpu.search(asked, 50, ids[::3])


# -- the word index ------------------------------------------------------------------------------


def restricted(everything: Ranking, allowed: set[int], top_k: int) -> Ranking:
    return [hit for hit in everything if hit[0] in allowed][:top_k]


def assert_same_ranking(found: Ranking, expected: Ranking) -> None:
    """Equal ids and scores; the order of a sum may move a score by one in the 4th decimal."""
    assert len(found) == len(expected)
    true = dict(expected)
    assert true.keys() == dict(found).keys()
    for (_, score), (id_, here) in zip(expected, found, strict=True):
        assert abs(score - here) < 2e-4
        assert abs(true[id_] - here) < 2e-4


TEXTS = st.dictionaries(
    st.integers(1, 60), st.lists(st.sampled_from(WORDS), max_size=5), max_size=50
)


@settings(max_examples=25, deadline=None)
@given(
    texts=TEXTS,
    gone=st.sets(st.integers(1, 60), max_size=3),
    allowed=st.sets(st.integers(1, 70), min_size=1, max_size=60),
    queries=st.lists(st.lists(st.sampled_from(WORDS), max_size=3), min_size=1, max_size=3),
    top_k=st.integers(1, 12),
)
def test_bm25_is_the_full_ranking_without_the_others(
    tmp_path_factory: pytest.TempPathFactory,
    texts: dict[int, list[str]],
    gone: set[int],
    allowed: set[int],
    queries: list[list[str]],
    top_k: int,
) -> None:
    index = TantivyIndex.open(tmp_path_factory.mktemp("lexical"), analyzer=ANALYZER)
    rows = [(id_, " ".join(words)) for id_, words in texts.items()]
    index.apply(rows[::2], [], 1)
    index.apply(rows[1::2], sorted(gone), 2)
    asked = [" ".join(words) for words in queries]
    everything = index.search(asked, 100)
    among = index.search(asked, top_k, array(allowed))
    for found, ranking in zip(among, everything, strict=True):
        assert_same_ranking(found, restricted(ranking, allowed, top_k))


@pytest.fixture(scope="module")
def two_thousand(tmp_path_factory: pytest.TempPathFactory) -> TantivyIndex:
    """Texts 1 to 2000: the lower the id, the more pumps; from 1201 on none."""
    index = TantivyIndex.open(tmp_path_factory.mktemp("lexical"), analyzer=ANALYZER)
    for part in range(4):
        ids = range(500 * part + 1, 500 * part + 501)
        rows = [(n, "pump " * max(0, 1 + (1200 - n) // 100) + f"oil w{n}x") for n in ids]
        index.apply(rows, [], part + 1)
    return index


@pytest.mark.parametrize(
    ("allowed", "by_set"),
    [
        (range(1, 2001), False),  # all
        (range(1, 2001, 2), False),  # half: a few more hits are fetched
        (range(601, 2001), True),  # most, but of the 600 best none
        (range(3, 2001, 400), True),  # few
        (range(1990, 9000), False),  # most of them not in the index
        (range(5000, 5001), True),  # none of them in the index
    ],
)
def test_both_ways_to_the_same_ranking(
    two_thousand: TantivyIndex, monkeypatch: pytest.MonkeyPatch, allowed: range, by_set: bool
) -> None:
    made: list[int] = []
    confined = Commit._confined

    def noted(commit: Commit, query: tantivy.Query, ids: IntArray) -> tantivy.Query:
        made.append(len(ids))
        return confined(commit, query, ids)

    monkeypatch.setattr(Commit, "_confined", noted)
    [everything] = two_thousand.search(["pump"], 2000)
    assert len(everything) == 1200
    for top_k in (1, 5):
        made.clear()
        [found] = two_thousand.search(["pump"], top_k, np.array(allowed, np.int64))
        assert found == restricted(everything, set(allowed), top_k)
        assert bool(made) == by_set


@pytest.mark.parametrize("step", [2, 40])
def test_many_ties_for_the_last_allowed_place(tmp_path: Path, step: int) -> None:
    index = TantivyIndex.open(tmp_path, analyzer=ANALYZER)
    index.apply([(n, "same words") for n in range(200, 0, -1)], [], 1)
    index.apply([(201, "other")], [], 2)
    allowed = np.arange(step, 201, step, dtype=np.int64)
    [found] = index.search(["same"], 3, allowed)
    assert [id_ for id_, _ in found] == [step, 2 * step, 3 * step]


def test_a_rare_word_is_found_among_many_without_a_set(
    two_thousand: TantivyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Commit, "_confined")
    many = np.arange(2, 2001, dtype=np.int64)
    assert [id_ for id_, _ in two_thousand.search(["w7x"], 3, many)[0]] == [7]
    assert two_thousand.search(["w1x"], 3, many) == [[]]


def test_words_among_none_are_not_searched(two_thousand: TantivyIndex) -> None:
    assert two_thousand.search(["pump", "oil"], 3, array(set())) == [[], []]
    assert two_thousand.search(["pump"], 0, array({1})) == [[]]


# -- the retriever -------------------------------------------------------------------------------


class Backwards:
    """A reranker that likes the text that comes last."""

    def rerank(self, query: str, texts: list[str]) -> FloatArray:
        return np.arange(len(texts), dtype=np.float32)


class Parts:
    """Real indexes over forty short texts."""

    def __init__(self, folder: Path) -> None:
        words = ["pump", "oil", "seal", "valve", "水泵", "年假"]
        self.texts = {n: f"{words[n % 6]} {words[n % 4]} {words[n % 5]} n{n}" for n in range(1, 41)}
        self.embedder = FakeEmbedder()
        self.dense = FaissIndex(self.embedder.dim, device="cpu")
        self.lexical = TantivyIndex.open(folder, analyzer=ANALYZER)
        self.keep(set(self.texts))

    def keep(self, ids: set[int]) -> None:
        """Hold these texts and no others."""
        every = array(set(self.texts))
        self.dense.remove(every)
        vectors = self.embedder.encode_passages([self.texts[id_] for id_ in sorted(ids)])
        self.dense.add(array(ids), vectors.reshape(len(ids), -1))
        self.lexical.reset()
        self.lexical.apply([(id_, self.texts[id_]) for id_ in sorted(ids)], [], 1)

    def chunks(self, ids: object) -> dict[int, Chunk]:
        assert isinstance(ids, list)
        return {id_: Chunk(id_, "a.txt", 0, 1, self.texts[id_]) for id_ in ids}

    def retriever(self, system: System, **others: object) -> Retriever:
        arguments: dict[str, object] = {
            "embedder": lambda: self.embedder,
            "tokens": FakeTokens(unread="水泵年假"),
            "dense": self.dense,
            "lexical": self.lexical,
            "chunks_by_id": self.chunks,
            "system": system,
            "candidates": 6,
        }
        return Retriever(**(arguments | others))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("retriever"))


@settings(max_examples=60, deadline=None)
@given(
    system=st.sampled_from(SYSTEMS),
    allowed=st.sets(st.integers(1, 50), max_size=45),
    query=st.lists(st.sampled_from([*WORDS, "n7", "xylophone"]), max_size=3).map(" ".join),
    top_k=st.integers(1, 12),
    reranked=st.booleans(),
)
def test_no_system_returns_what_is_not_allowed(
    parts: Parts, system: System, allowed: set[int], query: str, top_k: int, reranked: bool
) -> None:
    retriever = parts.retriever(system, reranker=Backwards() if reranked else None)
    hits = retriever.search(query, top_k, array(allowed))
    assert {hit.chunk.id for hit in hits} <= allowed
    [ranking] = retriever.rank_many([query], top_k, array(allowed))
    assert ranking == [(hit.chunk.id, hit.score) for hit in hits]
    assert retriever.search_many([query, "pump"], top_k, array(allowed))[0] == hits
    if system == "dense" and query:
        assert len(hits) == min(top_k, len(allowed & parts.texts.keys()))


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_ranks_as_if_the_others_were_not_there(tmp_path: Path, system: System) -> None:
    """With fewer candidates than passages: filtering after ranking would find less."""
    parts = Parts(tmp_path)
    allowed = set(range(1, 41, 5))
    queries = ["pump oil", "valve n16", "年假"]
    found = parts.retriever(system).rank_many(queries, 5, array(allowed))
    after = [
        [hit for hit in ranking if hit[0] in allowed]
        for ranking in parts.retriever(system).rank_many(queries, 5)
    ]
    assert sum(map(len, after)) < sum(map(len, found))
    if system == "dense":  # BM25's statistics are those of the whole index
        parts.keep(allowed)
        assert found == parts.retriever(system).rank_many(queries, 5)


def test_none_allowed_loads_no_model(parts: Parts) -> None:
    def no_embedder() -> Embedder:
        raise AssertionError("the embedder is not needed")

    for system in SYSTEMS:
        retriever = parts.retriever(system, embedder=no_embedder)
        assert retriever.search_many(["pump", "oil"], 3, array(set())) == [[], []]
        assert retriever.rank_many(["pump"], 3, array(set())) == [[]]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_set_out_of_order_is_refused(parts: Parts, system: System) -> None:
    with pytest.raises(ValueError, match="not sorted"):
        parts.retriever(system).search("pump", 3, np.array([3, 2], np.int64))
