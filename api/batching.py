"""Searches of requests that arrive together, done together.

While one batch is being searched, further searches gather; they are the next batch. So nobody waits
for company when alone, and with many clients the query embedder reads many queries at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from anyio import to_thread

from api.observing import Meters
from api.tracing import Origin, Tracing
from rag.build import OpenStore, Rag
from rag.chain import checked_question
from rag.retrieve import System
from rag.schema import Hit, IntArray

MOST = 64
"""Searches in one batch."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched for.

    Attributes:
        store: Where.
        query: What, fit to be asked.
        top_k: How many passages, >= 1.
        system: How; None: as the settings say.
        rerank: Whether the reranker, if there is one, orders the best passages.
        allowed: Ids of the passages that may be found, sorted; None: all.
        origin: Where in a trace it is asked for; set by the batcher.
    """

    store: OpenStore
    query: str
    top_k: int
    system: System | None = None
    rerank: bool = True
    allowed: IntArray | None = None
    origin: Origin = None


class SearchBatcher:
    """Runs searches in batches, one batch at a time.

    Args:
        rag: The parts.
        meters: Where the sizes of batches are counted.
        tracing: Where they are traced: below the first search's request, linked to the others.
    """

    def __init__(self, rag: Rag, meters: Meters, tracing: Tracing) -> None:
        self._max_chars = rag.settings.max_question_chars
        self._meters = meters
        self._tracing = tracing
        self._waiting: list[tuple[Search, asyncio.Future[list[Hit]]]] = []
        self._running: asyncio.Task[None] | None = None

    def checked(self, query: str) -> str:
        """Return a query as every part can take it.

        Raises:
            QueryError: If it is empty or too long.
        """
        return checked_question(query, self._max_chars)

    async def search(self, search: Search) -> list[Hit]:
        """Return the passages found, best first.

        A caller that is cancelled while it waits costs nothing.

        Raises:
            YoujuError: As `Retriever.search_many`.
        """
        future: asyncio.Future[list[Hit]] = asyncio.get_running_loop().create_future()
        self._waiting.append((replace(search, origin=self._tracing.here()), future))
        if self._running is None:
            self._running = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = [job for job in self._waiting[:MOST] if not job[1].done()]
                del self._waiting[:MOST]
                for group in _grouped(batch):
                    await self._run(group)
        finally:
            self._running = None

    async def _run(self, group: Sequence[tuple[Search, asyncio.Future[list[Hit]]]]) -> None:
        self._meters.batches.observe(len(group))
        searches = [search for search, _ in group]
        origins = [search.origin for search in searches]
        try:
            with self._tracing.within("search batch", origins, searches=len(searches)):
                found = await to_thread.run_sync(_search, searches)
        except Exception as error:  # noqa: BLE001  handed on to those who asked
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), hits in zip(group, found, strict=True):
            if not future.done():
                future.set_result(hits)


def _grouped(
    batch: Sequence[tuple[Search, asyncio.Future[list[Hit]]]],
) -> list[list[tuple[Search, asyncio.Future[list[Hit]]]]]:
    """Put together what one call can search."""
    groups: dict[object, list[tuple[Search, asyncio.Future[list[Hit]]]]] = {}
    for job in batch:
        search = job[0]
        key = (id(search.store), search.system, search.rerank, id(search.allowed))
        groups.setdefault(key, []).append(job)
    return list(groups.values())


def _search(searches: Sequence[Search]) -> list[list[Hit]]:
    """Search for all at once; they differ in query and number only."""
    first = searches[0]
    queries = list(dict.fromkeys(search.query for search in searches))
    most = max(search.top_k for search in searches)
    retriever = first.store.retriever(first.system, rerank=first.rerank)
    found = dict(
        zip(queries, retriever.search_many(queries, most, allowed=first.allowed), strict=True)
    )
    return [found[search.query][: search.top_k] for search in searches]
