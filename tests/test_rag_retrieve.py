from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rag.fuse import FusionWeights
from rag.index.dense import FaissIndex
from rag.index.lexical import TantivyIndex
from rag.protocols import Embedder
from rag.retrieve import Retriever, System
from rag.schema import Chunk, FloatArray
from rag.testing import FakeEmbedder, FakeTokens

TEXTS = {
    1: "The pump needs oil every month.",
    2: "Check the seal of the pump before you oil it.",
    3: "Vacation is fifteen days a year.",
    4: "水泵每月需要加油。",
    5: "员工每年有十五天年假。",
    6: "The pump needs oil every month.",
}


class Store:
    """Passages by id, with a record of what was asked for."""

    def __init__(self) -> None:
        self.chunks = {
            id_: Chunk(id_, f"{id_}.txt", 0, len(text), text, context="Manual")
            for id_, text in TEXTS.items()
        }
        self.asked: list[list[int]] = []

    def by_id(self, ids: Sequence[int]) -> dict[int, Chunk]:
        self.asked.append(list(ids))
        return {id_: self.chunks[id_] for id_ in ids if id_ in self.chunks}


class Parts:
    """Real small indexes over TEXTS, and a store."""

    def __init__(self, folder: Path) -> None:
        self.store = Store()
        self.embedder = FakeEmbedder()
        self.tokens = FakeTokens(unread="水泵每月需要加油员工年有十五天假多少")
        self.dense = FaissIndex(self.embedder.dim, device="cpu")
        self.dense.add(
            np.array(list(TEXTS), np.int64), self.embedder.encode_passages(list(TEXTS.values()))
        )
        self.embedder.encoded.clear()
        self.lexical = TantivyIndex.open(folder)
        self.lexical.apply(list(TEXTS.items()), [], 1)

    def retriever(self, system: System = "hybrid", **others: object) -> Retriever:
        arguments: dict[str, object] = {
            "embedder": lambda: self.embedder,
            "tokens": self.tokens,
            "dense": self.dense,
            "lexical": self.lexical,
            "chunks_by_id": self.store.by_id,
            "system": system,
        }
        return Retriever(**(arguments | others))  # type: ignore[arg-type]


class ByLength:
    """A reranker that likes short texts."""

    def __init__(self) -> None:
        self.read: list[list[str]] = []

    def rerank(self, query: str, texts: Sequence[str]) -> FloatArray:
        self.read.append(list(texts))
        return np.array([-len(text) for text in texts], np.float32)


def no_embedder() -> Embedder:
    raise AssertionError("the embedder is not needed")


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "lexical")


def test_hybrid_finds_by_both_sides(parts: Parts) -> None:
    hits = parts.retriever().search("pump oil every month", 3)
    assert [hit.chunk.id for hit in hits] == [1, 6, 2]
    assert hits[0].chunk == parts.store.chunks[1]
    assert all(hit.bm25 and hit.cosine and 0 <= hit.score < 1 for hit in hits)
    assert hits[0].score == hits[1].score > hits[2].score


def test_chinese_is_found_by_words_though_the_embedder_reads_none(parts: Parts) -> None:
    hits = parts.retriever().search("年假多少天", 2)
    assert hits[0].chunk.id == 5


def test_each_system_scores_in_its_own_units(parts: Parts) -> None:
    query = "pump oil every month"
    for system, id_ in (("dense", 1), ("bm25", 1), ("rrf", 1), ("hybrid", 1)):
        assert parts.retriever(system).search(query, 1)[0].chunk.id == id_  # type: ignore[arg-type]
    [dense] = parts.retriever("dense").search(query, 1)
    assert (dense.score, dense.bm25) == (dense.cosine, None)
    [bm25] = parts.retriever("bm25").search(query, 1)
    assert (bm25.score, bm25.cosine) == (bm25.bm25, None)
    [rrf] = parts.retriever("rrf").search(query, 1)
    assert rrf.score == pytest.approx(2 / 61)


def test_the_weights_are_those_given(parts: Parts) -> None:
    query = "pump oil every month"
    weights = FusionWeights(rrf_k=9)
    [rrf] = parts.retriever("rrf", weights=weights).search(query, 1)
    assert rrf.score == pytest.approx(2 / 10)
    [words] = parts.retriever("hybrid", weights=FusionWeights(bm25=100)).search(query, 1)
    [plain] = parts.retriever("hybrid").search(query, 1)
    assert words.score > plain.score


def test_bm25_needs_neither_embedder_nor_vectors(parts: Parts) -> None:
    retriever = parts.retriever("bm25", embedder=no_embedder, dense=None)
    assert [hit.chunk.id for hit in retriever.search("vacation", 9)] == [3]


def test_dense_needs_no_words(parts: Parts) -> None:
    assert len(parts.retriever("dense", lexical=None).search("vacation", 9)) == 6


def test_nothing_matched_is_an_empty_list(parts: Parts) -> None:
    assert parts.retriever("bm25").search("xylophone", 5) == []
    for query in ("", " \n\t"):
        assert parts.retriever(embedder=no_embedder).search(query, 5) == []
    assert parts.retriever().search_many([], 5) == []


def test_an_empty_store_loads_no_model(parts: Parts, tmp_path: Path) -> None:
    empty = parts.retriever(
        embedder=no_embedder,
        dense=FaissIndex(8, device="cpu"),
        lexical=TantivyIndex(tmp_path / "e"),
    )
    assert empty.search("pump", 5) == []


def test_many_queries_are_embedded_together(parts: Parts) -> None:
    queries = ["pump", " ", "vacation days", "年假"]
    calls: list[list[str]] = []

    class Counting(FakeEmbedder):
        def encode_queries(self, texts: Sequence[str]) -> FloatArray:
            calls.append(list(texts))
            return super().encode_queries(texts)

    retriever = parts.retriever(embedder=Counting)
    together = retriever.search_many(queries, 2)
    assert calls == [["pump", "vacation days", "年假"]]
    assert together == [retriever.search(query, 2) for query in queries]
    assert together[1] == []
    ranked = retriever.rank_many(queries, 2)
    assert ranked == [[(hit.chunk.id, hit.score) for hit in hits] for hits in together]
    assert len(parts.store.asked) == 1 + 3, "one fetch for many queries, none for ids alone"


def test_passages_gone_meanwhile_are_replaced_from_further_down(parts: Parts) -> None:
    del parts.store.chunks[1], parts.store.chunks[6]
    hits = parts.retriever().search("pump oil every month", 2)
    assert hits[0].chunk.id == 2
    assert len(hits) == 2
    del parts.store.chunks[2]
    assert [hit.chunk.id for hit in parts.retriever("bm25").search("pump", 5)] == []


def test_top_k_may_exceed_the_candidates(parts: Parts) -> None:
    retriever = parts.retriever("dense", candidates=2)
    assert len(retriever.search("pump", 2)) == 2
    assert len(retriever.search("pump", 5)) == 5


def test_a_reranker_has_the_last_word(parts: Parts) -> None:
    reranker = ByLength()
    retriever = parts.retriever(reranker=reranker, reranker_depth=4)
    hits = retriever.search("pump oil every month", 3)
    assert len(reranker.read) == 1
    assert len(reranker.read[0]) == 4
    assert reranker.read[0][0] == f"Manual\n{TEXTS[1]}"
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].score == max(-len(text) for text in reranker.read[0])
    assert hits[-1].cosine is not None
    ranked = retriever.rank_many(["pump oil every month"], 3)
    assert ranked == [[(hit.chunk.id, hit.score) for hit in hits]]
    retriever.search("xylophone", 1)
    parts.retriever("bm25", reranker=reranker).search("xylophone", 1)
    assert len(reranker.read) == 3, "nothing to rerank, yet it was asked"


def test_more_are_wanted_than_the_reranker_reads(parts: Parts) -> None:
    reranker = ByLength()
    assert len(parts.retriever(reranker=reranker, reranker_depth=2).search("pump", 5)) == 5
    assert len(reranker.read[0]) == 5


@pytest.mark.parametrize("wrong", [{"dense": None}, {"lexical": None}, {"candidates": 0}])
def test_a_retriever_that_cannot_work_is_refused(parts: Parts, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"None|expected"):
        parts.retriever(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_below_one_is_refused(parts: Parts, top_k: int) -> None:
    with pytest.raises(ValueError, match="top_k >= 1"):
        parts.retriever().search("pump", top_k)
