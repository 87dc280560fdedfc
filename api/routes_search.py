"""POST /v1/vector_stores/{id}/search: passages, without an answer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from api.access import Reader
from api.gone import unless_gone
from api.observing import note_content
from api.routes_stores import usable_store
from api.schemas_search import RankingOptions, SearchRequest, SearchResults, show_hit
from api.searching import Wanted, attributes_of, passes, search
from api.service import Service, service_of
from rag.condense import rewrite
from rag.filters import parse_filter

router = APIRouter(prefix="/v1/vector_stores", tags=["Search"])
ServiceOf = Annotated[Service, Depends(service_of)]


@router.post("/{store_id}/search")
async def search_store(
    store_id: str, body: SearchRequest, request: Request, access: Reader, service: ServiceOf
) -> SearchResults:
    """Find passages. While files are still being ingested, it searches those that are done.

    With several queries, each passage has the best of its scores. Filters are applied before
    ranking: what they leave is what is ranked.
    """
    row = await usable_store(service, access.project_id, store_id)
    options = body.ranking_options or RankingOptions()
    wanted = Wanted(
        top_k=body.max_num_results,
        test=passes(None if body.filters is None else parse_filter(body.filters)),
        rerank=options.ranker != "none",
        threshold=options.score_threshold,
    )
    queries = [body.query] if isinstance(body.query, str) else body.query
    if body.rewrite_query:
        queries = [rewrite(query) for query in queries]
    note_content(request.scope, question=" | ".join(queries))
    hits = await unless_gone(request, search(service, [row], queries, wanted))
    note_content(request.scope, files=list(dict.fromkeys(hit.chunk.file for hit in hits)))
    attributes = await attributes_of(service, [row], hits)
    return SearchResults(
        search_query=queries,
        data=[show_hit(hit, attributes[hit.chunk.file_id]) for hit in hits],
    )
