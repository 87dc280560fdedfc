"""Searches in one or more stores, with filters, for all the routes that need passages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.batching import Search
from api.service import Service
from rag.build import check_embedder
from rag.filters import Filter, matches
from rag.schema import Hit, IntArray
from rag.store.tables import StoreRow

Test = Callable[[Mapping[str, Any]], bool]
"""Whether a file with these attributes may be searched."""


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
    service: Service, rows: Sequence[StoreRow], queries: Sequence[str], wanted: Wanted
) -> list[Hit]:
    """Return the passages that stores hold for any of some queries, best first.

    Of a passage found for several queries the best score counts; ties are in order of id.

    Raises:
        QueryError: If a query is empty or too long.
        IndexMismatch: If a store was made by another embedder.
        YoujuError: As `Retriever.search_many`.
    """
    with service.tracing.within("retrieval", stores=len(rows), queries=len(queries)) as span:
        found = await _search(service, rows, queries, wanted)
        span.tell(passages=len(found))
        return found


async def _search(
    service: Service, rows: Sequence[StoreRow], queries: Sequence[str], wanted: Wanted
) -> list[Hit]:
    checked = [service.batcher.checked(query) for query in queries]
    searches: list[Search] = []
    for row in rows:
        store = service.stores.open(row)
        check_embedder(store, service.rag.embedder.fingerprint)
        allowed = None
        if wanted.test is not None:
            allowed = await service.run(_allowed, service, row.id, wanted.test)
        opened = service.opened.get(store)
        searches += [
            Search(opened, query, wanted.top_k, rerank=wanted.rerank, allowed=allowed)
            for query in checked
        ]
        if row.expires_days is not None:
            await service.run(service.stores.touch, row)
    if len(searches) == 1:
        found = [await service.batcher.search(searches[0])]
    else:
        found = await asyncio.gather(*map(service.batcher.search, searches))
    best: dict[int, Hit] = {}
    for hits in found:
        for hit in hits:
            known = best.get(hit.chunk.id)
            if hit.score >= wanted.threshold and (known is None or hit.score > known.score):
                best[hit.chunk.id] = hit
    return sorted(best.values(), key=lambda hit: (-hit.score, hit.chunk.id))[: wanted.top_k]


async def attributes_of(
    service: Service, rows: Sequence[StoreRow], hits: Sequence[Hit]
) -> dict[str, dict[str, bool | int | float | str]]:
    """Return the attributes of the files that passages are from, by file id."""
    file_ids = list({hit.chunk.file_id for hit in hits})
    found: dict[str, dict[str, bool | int | float | str]] = {file_id: {} for file_id in file_ids}
    for row in rows:
        found |= await service.run(service.store_files.attributes, row.id, file_ids)
    return found


def _allowed(service: Service, store_id: str, test: Test) -> IntArray | None:
    """Return the ids of the passages of the files that pass; None if all do."""
    attributes = service.store_files.attributes(store_id)
    passing = [file_id for file_id, values in attributes.items() if test(values)]
    if len(passing) == len(attributes):
        return None
    return service.store_files.chunk_ids(store_id, passing)
