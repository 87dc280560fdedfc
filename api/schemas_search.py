"""Searching a store: OpenAI's shape, and Dify's."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from api.schemas import NUMBER, Body, Flag, ObjectId, PlainText, Shown, storable
from rag.schema import Hit

QueryText = Annotated[PlainText, StringConstraints(min_length=1)]

_FILTER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A comparison {type: eq|ne|gt|gte|lt|lte|in|nin, key, value} of an attribute, "
    "or {type: and|or, filters: [...]}.",
    "properties": {
        "type": {
            "type": "string",
            "enum": ["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or"],
        }
    },
    "required": ["type"],
    "examples": [{"type": "eq", "key": "year", "value": 2024}],
}


def _storable(found: dict[str, Any]) -> dict[str, Any]:
    storable(json.dumps(found, ensure_ascii=False).replace("\\u0000", "\0"))
    return found


FilterJson = Annotated[
    dict[str, Any], AfterValidator(_storable), Field(json_schema_extra=_FILTER_SCHEMA)
]


class RankingOptions(Body):
    """How results are ranked. "none" leaves the reranker out, if the server has one."""

    ranker: Literal["none", "auto", "default-2024-11-15"] = "auto"
    score_threshold: Annotated[float, Field(ge=0, le=1), NUMBER] = 0.0


class SearchRequest(Body):
    """A search among the files of a store."""

    query: QueryText | Annotated[list[QueryText], Field(min_length=1, max_length=16)]
    filters: FilterJson | None = None
    max_num_results: Annotated[int, Field(ge=1, le=50), NUMBER] = 10
    ranking_options: RankingOptions | None = None
    rewrite_query: Flag = False


class TextContent(Shown):
    """A passage."""

    type: Literal["text"] = "text"
    text: str


class PlaceShown(Shown):
    """Where a passage is: characters of the parsed text, and the page, from 1, if there is one."""

    start: int
    end: int
    page: int | None
    section: str


class SearchResult(Shown):
    """A passage that was found. `place` is an extension."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, bool | int | float | str]
    content: list[TextContent]
    place: PlaceShown


class SearchResults(Shown):
    """What was found, best first. `search_query` is what was searched for."""

    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: list[str]
    data: list[SearchResult]
    has_more: bool = False
    next_page: str | None = None


class RetrievalSetting(Body):
    """How much Dify wants."""

    top_k: Annotated[int, Field(ge=1, le=100), NUMBER]
    score_threshold: Annotated[float, Field(ge=0, le=1), NUMBER] = 0.0


class MetadataTest(Body):
    """One of Dify's conditions on attributes."""

    name: QueryText | Annotated[list[QueryText], Field(min_length=1, max_length=16)]
    comparison_operator: Literal[
        "contains", "not contains", "start with", "end with", "is", "is not", "in", "not in",
        "empty", "not empty", "null", "not null", "=", "≠", ">", "<", "≥", "≤", "before", "after",
    ]  # fmt: skip
    value: str | float | bool | Annotated[list[str | float], Field(max_length=1000)] | None = None


class MetadataCondition(Body):
    """All or any of some conditions."""

    logical_operator: Literal["and", "or"] = "and"
    conditions: Annotated[list[MetadataTest], Field(max_length=64)]


class RetrievalRequest(Body):
    """What Dify asks an external knowledge base."""

    knowledge_id: ObjectId
    query: QueryText
    retrieval_setting: RetrievalSetting
    metadata_condition: MetadataCondition | None = None


class Record(Shown):
    """A passage for Dify; `metadata` is never null."""

    content: str
    score: float
    title: str
    metadata: dict[str, Any]


class Records(Shown):
    """What was found, best first."""

    records: list[Record]


class RetrievalFault(Shown):
    """What Dify shows when it goes wrong: 1001, 1002 for the key, 2001 for the knowledge base."""

    error_code: int
    error_msg: str


def show_hit(hit: Hit, attributes: dict[str, bool | int | float | str]) -> SearchResult:
    """Return a passage as a search result."""
    chunk = hit.chunk
    return SearchResult(
        file_id=chunk.file_id,
        filename=chunk.file,
        score=hit.score,
        attributes=attributes,
        content=[TextContent(text=chunk.text)],
        place=PlaceShown(start=chunk.start, end=chunk.end, page=chunk.page, section=chunk.context),
    )
