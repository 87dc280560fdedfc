"""POST /v1/vector_stores/{id}/search: passages, without an answer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from api.access import Reader
from api.gone import unless_gone
from api.observing import note_content
from api.schemas_search import RankingOptions, SearchRequest, SearchResults, show_hit
from api.searching import Wanted, passes, search
from api.service import Service, service_of
from rag.condense import rewrite
from rag.filters import parse_filter

router = APIRouter(prefix="/v1/vector_stores", tags=["Search"])
ServiceOf = Annotated[Service, Depends(service_of)]


@router.post("/{store_id}/search", response_model=SearchResults)
async def search_store(
    store_id: str, body: SearchRequest, request: Request, access: Reader, service: ServiceOf
) -> Response:
    """Find passages. While files are still being ingested, it searches those that are done.

    With several queries, each passage has the best of its scores. Filters are applied before
    ranking: what they leave is what is ranked.
    """
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
    found = await unless_gone(
        request, search(service, access.project_id, [store_id], queries, wanted)
    )
    note_content(request.scope, files=list(dict.fromkeys(hit.chunk.file for hit in found.hits)))
    shown = SearchResults(
        search_query=queries,
        data=[show_hit(hit, found.attributes.get(hit.chunk.file_id, {})) for hit in found.hits],
    )
    return Response(shown.model_dump_json(), media_type="application/json")
