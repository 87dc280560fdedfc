"""Query to passages: asks both indexes, fuses their rankings, fetches the passages, reranks.

It holds no state of its own and writes nothing. That the indexes are up to date, and that the
query is fit to be asked, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rag.fuse import (
    DEFAULT_WEIGHTS,
    FusionWeights,
    best_first,
    hybrid_fusion,
    reciprocal_rank_fusion,
)
from rag.protocols import DenseIndex, Embedder, LexicalIndex, Reranker, Tokens
from rag.schema import Chunk, Hit, IntArray, Ranking

System: TypeAlias = Literal["hybrid", "dense", "bm25", "rrf"]


@dataclass(frozen=True, slots=True)
class _Found:
    """What the indexes say of one query: the ranking, and each side's own scores."""

    ranking: Ranking
    cosine: dict[int, float]
    bm25: dict[int, float]


class Retriever:
    """Finds passages for queries. Safe to share between threads if its indexes are.

    Args:
        embedder: Gives the embedder; called only when a query has to be embedded.
        tokens: The embedder's view of text; read by "hybrid" only.
        dense: None only for "bm25".
        lexical: None only for "dense".
        chunks_by_id: Fetches passages; leaves out ids that are gone.
        candidates: Passages that each index contributes, >= 1; top_k if that is more.
        system: "hybrid" fuses both indexes by how sure each is; "rrf" by rank alone; "dense"
            and "bm25" use one.
        reranker: Reads the best passages again and orders them, or None.
        reranker_depth: Passages it reads, >= 1; top_k if that is more.
        weights: Constants of "hybrid" and "rrf".

    Raises:
        ValueError: If an index that the system needs is None, or a number is below 1.
    """

    def __init__(
        self,
        *,
        embedder: Callable[[], Embedder],
        tokens: Tokens,
        dense: DenseIndex | None,
        lexical: LexicalIndex | None,
        chunks_by_id: Callable[[Sequence[int]], dict[int, Chunk]],
        candidates: int = 100,
        system: System = "hybrid",
        reranker: Reranker | None = None,
        reranker_depth: int = 30,
        weights: FusionWeights = DEFAULT_WEIGHTS,
    ) -> None:
        if (dense is None and system != "bm25") or (lexical is None and system != "dense"):
            raise ValueError(f"system {system!r} needs an index that is None")
        if min(candidates, reranker_depth) < 1:
            raise ValueError("expected candidates and reranker_depth >= 1")
        self._embedder = embedder
        self._tokens = tokens
        self._dense = dense if system != "bm25" else None
        self._lexical = lexical if system != "dense" else None
        self._chunks_by_id = chunks_by_id
        self._candidates = candidates
        self._system = system
        self._reranker = reranker
        self._reranker_depth = reranker_depth
        self._weights = weights

    def search(self, query: str, top_k: int, allowed: IntArray | None = None) -> list[Hit]:
        """Return up to `top_k` passages for a query; see `search_many`."""
        return self.search_many([query], top_k, allowed)[0]

    def search_many(
        self, queries: Sequence[str], top_k: int, allowed: IntArray | None = None
    ) -> list[list[Hit]]:
        """Return up to `top_k` passages for each query, with one call of the embedder.

        Passages deleted since the indexes were brought up to date are passed over.

        Args:
            queries: One that is empty or blank finds nothing.
            top_k: Passages wanted for each, >= 1.
            allowed: None, or (n,) int64 ids that ascend strictly: both indexes search among those
                alone, before anything is ranked or fused. With none allowed no model is loaded.

        Returns:
            Best first, ties by id; [] where nothing matched. `Hit.score` is the fused score in
            [0, 1), the cosine for "dense", BM25 for "bm25", or the reranker's if there is one.

        Raises:
            ModelError: If the embedder or the reranker fails.
            StorageError: If an index or the store cannot be read.
            ValueError: If top_k < 1, or `allowed` is not sorted or repeats an id.
        """
        wanted = max(top_k, self._reranker_depth) if self._reranker else top_k
        found = self._find(queries, wanted, allowed)
        rankings = [result.ranking for result in found]
        chunks = self._fetch(rankings, wanted)
        results = []
        for query, result in zip(queries, found, strict=True):
            hits = [
                Hit(chunks[id_], score, bm25=result.bm25.get(id_), cosine=result.cosine.get(id_))
                for id_, score in result.ranking
                if id_ in chunks
            ]
            results.append(self._rerank(query, hits[:wanted])[:top_k])
        return results

    def rank_many(
        self, queries: Sequence[str], top_k: int, allowed: IntArray | None = None
    ) -> list[Ranking]:
        """Return (id, score) as `search_many` does, without the passages.

        They are fetched only if there is a reranker; otherwise a deleted one may be among them.
        Raises as `search_many` does.
        """
        if self._reranker:
            return [
                [(hit.chunk.id, hit.score) for hit in hits]
                for hits in self.search_many(queries, top_k, allowed)
            ]
        return [result.ranking[:top_k] for result in self._find(queries, top_k, allowed)]

    def _find(self, queries: Sequence[str], top_k: int, allowed: IntArray | None) -> list[_Found]:
        """Ask the indexes and fuse what they return."""
        if top_k < 1:
            raise ValueError(f"expected top_k >= 1, got {top_k}")
        if allowed is not None and not len(allowed):
            return [_Found([], {}, {}) for _ in queries]
        depth = max(self._candidates, top_k)
        asked = [number for number, query in enumerate(queries) if not query.isspace() and query]
        texts = [queries[number] for number in asked]
        dense: list[Ranking] = [[] for _ in texts]
        lexical: list[Ranking] = [[] for _ in texts]
        if texts and self._dense is not None and len(self._dense):
            dense = self._dense.search(self._embedder().encode_queries(texts), depth, allowed)
        if texts and self._lexical is not None:
            lexical = self._lexical.search(texts, depth, allowed)
        fused = self._fuse(texts, dense, lexical)
        found = [_Found([], {}, {}) for _ in queries]
        for number, ranking, near, matching in zip(asked, fused, dense, lexical, strict=True):
            found[number] = _Found(ranking, dict(near), dict(matching))
        return found

    def _fuse(
        self, texts: Sequence[str], dense: list[Ranking], lexical: list[Ranking]
    ) -> list[Ranking]:
        if self._system == "dense":
            return [best_first(ranking) for ranking in dense]
        if self._system == "bm25":
            return [best_first(ranking) for ranking in lexical]
        sides = list(zip(dense, lexical, strict=True))
        if self._system == "rrf":
            return [
                reciprocal_rank_fusion(
                    [[id_ for id_, _ in side] for side in both], self._weights.rrf_k
                )
                for both in sides
            ]
        read = self._tokens.coverage(texts).tolist()
        return [
            hybrid_fusion(near, matching, coverage, self._weights)
            for (near, matching), coverage in zip(sides, read, strict=True)
        ]

    def _fetch(self, rankings: list[Ranking], wanted: int) -> dict[int, Chunk]:
        """Fetch the first `wanted` passages of each ranking, and more where some are gone."""
        chunks: dict[int, Chunk] = {}
        looked: set[int] = set()
        while True:
            need: dict[int, None] = {}
            for ranking in rankings:
                missing = wanted
                for id_, _ in ranking:
                    if missing == 0:
                        break
                    if id_ not in looked:
                        need[id_] = None
                        missing -= 1
                    elif id_ in chunks:
                        missing -= 1
            if not need:
                return chunks
            chunks |= self._chunks_by_id(list(need))
            looked |= need.keys()

    def _rerank(self, query: str, hits: list[Hit]) -> list[Hit]:
        """Order hits by the reranker's score, ties by id."""
        if self._reranker is None or not hits:
            return hits
        scores = self._reranker.rerank(query, [hit.chunk.indexed_text for hit in hits]).tolist()
        scored = [
            Hit(hit.chunk, score, bm25=hit.bm25, cosine=hit.cosine)
            for hit, score in zip(hits, scores, strict=True)
        ]
        return sorted(scored, key=lambda hit: (-hit.score, hit.chunk.id))
