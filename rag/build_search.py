"""Makes a retriever over given indexes with the numbers that the settings hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rag.config import Settings
from rag.fuse import FusionWeights
from rag.protocols import DenseIndex, Embedder, LexicalIndex, Reranker, Tokens
from rag.retrieve import Retriever, System
from rag.schema import Chunk


def make_retriever(
    settings: Settings,
    *,
    embedder: Callable[[], Embedder],
    tokens: Tokens,
    dense: DenseIndex | None,
    lexical: LexicalIndex | None,
    chunks_by_id: Callable[[Sequence[int]], dict[int, Chunk]],
    system: System,
    reranker: Reranker | None,
) -> Retriever:
    """Return a retriever over the parts given, with the numbers that the settings hold.

    Raises:
        ValueError: If an index that the system needs is None.
    """
    return Retriever(
        embedder=embedder,
        tokens=tokens,
        dense=dense,
        lexical=lexical,
        chunks_by_id=chunks_by_id,
        candidates=settings.candidates,
        system=system,
        reranker=reranker,
        reranker_depth=settings.reranker_depth,
        weights=FusionWeights(
            bm25=settings.fusion_bm25_weight,
            least_coverage=settings.fusion_least_coverage,
            rrf_k=settings.fusion_rrf_k,
        ),
    )
