"""Searches of requests that arrive together, done together.

While a batch is being searched, further searches gather for a few milliseconds; they are the next
batch. So nobody waits for company when alone, and with many clients the query embedder reads many
queries at once, and the database is asked once for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from anyio import CapacityLimiter, to_thread

from api.errors import ApiError, not_found
from api.observing import Meters, log
from api.tracing import Origin, Tracing
from rag.build import Rag
from rag.chain import checked_question
from rag.errors import QueryError, StorageError
from rag.made_by import check_embedder
from rag.opened import OpenStores
from rag.schema import Hit, IntArray
from rag.store.corpus import Store
from rag.store.store_files import StoreFiles
from rag.store.vector_stores import VectorStores, has_expired

MOST = 16
"""Searches in one batch: with more the embedder gains nothing, and the last ones wait longer."""

LANES = 2
"""Batches at once: while one is being embedded, the other is looked up."""

GATHER_S = 0.01
"""How long, s, a batch waits for company while another runs: those who are answered together ask
again together, and one by one each would cost the embedder twice as much."""

Attributes: TypeAlias = dict[str, bool | int | float | str]
Test: TypeAlias = Callable[[Mapping[str, Any]], bool]
"""Whether a file with these attributes may be searched."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched for.

    Attributes:
        project_id: Who asks.
        store_id: Where; a store of the project.
        query: What.
        top_k: How many passages, >= 1.
        test: Which files are searched; None: all.
        rerank: Whether the reranker, if there is one, orders the best passages.
        origin: Where in a trace it is asked for; set by the batcher.
    """

    project_id: str
    store_id: str
    query: str
    top_k: int
    test: Test | None = None
    rerank: bool = True
    origin: Origin = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: passages, best first; by file id their attributes and their store."""

    hits: list[Hit]
    attributes: dict[str, Attributes]
    homes: dict[str, str]


Job: TypeAlias = "tuple[Search, asyncio.Future[Found]]"


class SearchBatcher:
    """Runs searches in batches, two at a time.

    Args:
        rag: The parts.
        opened: The stores that are open.
        meters: Where the sizes of batches are counted.
        tracing: Where they are traced: below the first search's request, linked to the others.
    """

    def __init__(self, rag: Rag, opened: OpenStores, meters: Meters, tracing: Tracing) -> None:
        self._tracing = tracing
        self._rag = rag
        self._opened = opened
        self._stores = VectorStores(rag.db)
        self._files = StoreFiles(rag.db)
        self._meters = meters
        self._waiting: list[Job] = []
        self._lanes: set[asyncio.Task[None]] = set()
        self._threads = CapacityLimiter(
            LANES
        )  # its own: steps of answers wait for searches in others

    async def search(self, search: Search) -> Found:
        """Return what a search finds.

        A caller that is cancelled while it waits costs nothing.

        Raises:
            ApiError: If the store is not there or has expired.
            QueryError: If the query is empty or too long.
            YoujuError: As `Retriever.search_many`.
        """
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((replace(search, origin=self._tracing.here()), future))
        if len(self._lanes) < LANES:
            lane = asyncio.create_task(self._drain())
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        return await future

    async def _drain(self) -> None:
        while self._waiting:
            if len(self._lanes) > 1 and len(self._waiting) < MOST:
                await asyncio.sleep(GATHER_S)
            batch = [job for job in self._waiting[:MOST] if not job[1].done()]
            del self._waiting[:MOST]
            if batch:
                await self._run(batch)

    async def _run(self, batch: Sequence[Job]) -> None:
        self._meters.batches.observe(len(batch))
        searches = [search for search, _ in batch]
        origins = [search.origin for search in searches]
        try:
            found: Sequence[Found | Exception]
            with self._tracing.within("search batch", origins, searches=len(searches)):
                found = await to_thread.run_sync(self._search, searches, limiter=self._threads)
        except Exception as error:  # noqa: BLE001  handed on to those who asked
            found = [error] * len(batch)
        for (_, future), result in zip(batch, found, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _search(self, searches: Sequence[Search]) -> list[Found | Exception]:
        """Search for all at once, in a worker thread; a fault of one store is told to its own."""
        rows = self._stores.many(list({search.store_id for search in searches}))
        results: list[Found | Exception] = [Found([], {}, {})] * len(searches)
        groups: dict[object, list[int]] = {}
        for index, search in enumerate(searches):
            row = rows.get(search.store_id)
            if row is None or row.project_id != search.project_id:
                results[index] = not_found("vector store", search.store_id)
            elif has_expired(row):
                results[index] = expired()
            else:
                key = (search.store_id, search.rerank, index if search.test else None)
                groups.setdefault(key, []).append(index)
        for group in groups.values():
            store = self._stores.open(rows[searches[group[0]].store_id])
            try:
                found = self._search_store(store, [searches[index] for index in group])
            except Exception as error:  # noqa: BLE001  handed on to those who asked
                found = [self._unless_gone(store.id, error)] * len(group)
            for index, result in zip(group, found, strict=True):
                results[index] = result
        for store_id in {searches[group[0]].store_id for group in groups.values()}:
            try:
                self._stores.touch(rows[store_id])
            except StorageError as error:  # locked perhaps: the next search records it
                log.error("use not recorded", store=store_id, reason=str(error))
        return results

    def _unless_gone(self, store_id: str, error: Exception) -> Exception:
        """Return what a search failed by: a store that was deleted takes its indexes along."""
        if isinstance(error, StorageError) and not self._stores.many([store_id]):
            self._opened.drop(store_id)
            return not_found("vector store", store_id)
        return error

    def _search_store(self, store: Store, searches: Sequence[Search]) -> list[Found | Exception]:
        """Search one store; several searches differ in query and number only."""
        check_embedder(store, self._rag.embedder.fingerprint)
        first = searches[0]
        allowed = None if first.test is None else self._allowed(store.id, first.test)
        checked = [self._checked(search.query) for search in searches]
        queries = list(dict.fromkeys(query for query in checked if isinstance(query, str)))
        retriever = self._opened.get(store).retriever(rerank=first.rerank)
        most = max(search.top_k for search in searches)
        hits = dict(
            zip(queries, retriever.search_many(queries, most, allowed=allowed), strict=True)
        )
        file_ids = list({hit.chunk.file_id for found in hits.values() for hit in found})
        attributes: dict[str, Attributes] = self._files.attributes(store.id, file_ids)
        if first.test is not None:  # files may have been completed or changed since `_allowed`
            passing = {id_ for id_, values in attributes.items() if first.test(values)}
            hits = {
                query: [hit for hit in found if hit.chunk.file_id in passing]
                for query, found in hits.items()
            }
        return [
            query
            if isinstance(query, Exception)
            else Found(hits[query][: search.top_k], attributes, dict.fromkeys(file_ids, store.id))
            for query, search in zip(checked, searches, strict=True)
        ]

    def _checked(self, query: str) -> str | Exception:
        try:
            return checked_question(query, self._rag.settings.max_question_chars)
        except QueryError as error:
            return error

    def _allowed(self, store_id: str, test: Test) -> IntArray | None:
        """Return the ids of the passages of the files that pass; None if all do."""
        attributes = self._files.attributes(store_id)
        passing = [file_id for file_id, values in attributes.items() if test(values)]
        if len(passing) == len(attributes):
            return None
        return self._files.chunk_ids(store_id, passing)


def expired() -> ApiError:
    """Return the error for a store whose time has passed."""
    return ApiError(
        409,
        "The vector store has expired.",
        code="vector_store_expired",
        param="vector_store_id",
    )
