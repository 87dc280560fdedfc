"""Searches in one or more stores for one or more queries, for all the routes that need passages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from api.batching import Attributes, Found, Search, Test
from api.service import Service
from rag.filters import Filter, matches
from rag.schema import Chunk, Hit


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a search is to return.

    Attributes:
        top_k: At most so many passages, >= 1.
        test: Which files are searched; None: all.
        rerank: Whether the reranker, if there is one, orders the best.
        threshold: Lowest score.
    """

    top_k: int
    test: Test | None = None
    rerank: bool = True
    threshold: float = 0.0


def passes(found: Filter | None) -> Test | None:
    """Return a filter as a test of attributes."""
    return None if found is None else lambda attributes: matches(found, attributes)


async def search(
    service: Service,
    project_id: str,
    store_ids: Sequence[str],
    queries: Sequence[str],
    wanted: Wanted,
) -> Found:
    """Return the passages that stores hold for any of some queries, best first.

    Of a passage found for several queries, or of one file in several stores, the best score
    counts; ties are in order of id.

    Raises:
        ApiError: If a store is not there or has expired.
        QueryError: If a query is empty or too long.
        IndexMismatch: If a store was made by another embedder.
        YoujuError: As `Retriever.search_many`.
    """
    with service.tracing.within("retrieval", stores=len(store_ids), queries=len(queries)) as span:
        found = await _search(service, project_id, store_ids, queries, wanted)
        span.tell(passages=len(found.hits))
        return found


async def _search(
    service: Service,
    project_id: str,
    store_ids: Sequence[str],
    queries: Sequence[str],
    wanted: Wanted,
) -> Found:
    searches = [
        Search(project_id, store_id, query, wanted.top_k, wanted.test, wanted.rerank)
        for store_id in store_ids
        for query in queries
    ]
    if len(searches) == 1:
        found = [await service.batcher.search(searches[0])]
    else:
        found = await asyncio.gather(*map(service.batcher.search, searches))
    best: dict[object, Hit] = {}
    attributes: dict[str, Attributes] = {}
    homes: dict[str, str] = {}
    for result in found:
        attributes = result.attributes | attributes
        homes = result.homes | homes
        for hit in result.hits:
            known = best.get(_passage(hit.chunk))
            if hit.score >= wanted.threshold and (known is None or hit.score > known.score):
                best[_passage(hit.chunk)] = hit
    hits = sorted(best.values(), key=lambda hit: (-hit.score, hit.chunk.id))[: wanted.top_k]
    return Found(hits, attributes, homes)


def _passage(chunk: Chunk) -> object:
    """Return what is alike for the same stretch of a file in several stores."""
    return (chunk.file_id, chunk.start, chunk.end) if chunk.file_id else chunk.id
