"""POST /retrieval: a vector store as an external knowledge base of Dify."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from api.access import Reader
from api.errors import ApiError
from api.gone import unless_gone
from api.observing import note_content
from api.schemas import ErrorShown
from api.schemas_search import (
    MetadataCondition,
    MetadataTest,
    Record,
    Records,
    RetrievalFault,
    RetrievalRequest,
)
from api.searching import Wanted, search
from api.service import Service, service_of

router = APIRouter(tags=["Dify"])
ServiceOf = Annotated[Service, Depends(service_of)]

_UNARY = frozenset({"empty", "not empty", "null", "not null"})
_NUMERIC = frozenset({"=", "≠", ">", "<", "≥", "≤"})
_FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": RetrievalFault, "description": text}
    for status, text in {
        400: "The request is wrong.",
        403: "The key is missing (1001) or not valid (1002).",
        404: "There is no such knowledge base (2001).",
        409: "The store cannot be used.",
        429: "Too many requests; see the header Retry-After.",
        500: "The server failed.",
        502: "A model that the server asks failed.",
        503: "Not possible now; see the header Retry-After.",
    }.items()
}
_FAULTS[429]["model"] = RetrievalFault | ErrorShown  # of a full server, in the common shape


@router.post("/retrieval", responses=_FAULTS)
async def retrieve(
    body: RetrievalRequest, request: Request, access: Reader, service: ServiceOf
) -> Records:
    """Find passages for Dify; `knowledge_id` is the id of a vector store."""
    condition = body.metadata_condition
    if condition is not None:
        _check(condition)
    wanted = Wanted(
        top_k=body.retrieval_setting.top_k,
        threshold=body.retrieval_setting.score_threshold,
        test=None if condition is None else lambda held: meets(condition, held),
    )
    note_content(request.scope, question=body.query)
    found = await unless_gone(
        request, search(service, access.project_id, [body.knowledge_id], [body.query], wanted)
    )
    note_content(request.scope, files=list(dict.fromkeys(hit.chunk.file for hit in found.hits)))
    return Records(
        records=[
            Record(
                content=hit.chunk.text,
                score=hit.score,
                title=hit.chunk.file,
                metadata={
                    **found.attributes.get(hit.chunk.file_id, {}),
                    "file_id": hit.chunk.file_id,
                    "page": hit.chunk.page or 0,
                    "start": hit.chunk.start,
                    "end": hit.chunk.end,
                },
            )
            for hit in found.hits
        ]
    )


def meets(condition: MetadataCondition, attributes: Mapping[str, Any]) -> bool:
    """Whether attributes meet a condition; one without tests is met by all."""
    results = [_passes(test, attributes) for test in condition.conditions]
    return not results or (all if condition.logical_operator == "and" else any)(results)


def _check(condition: MetadataCondition) -> None:
    for index, test in enumerate(condition.conditions):
        if test.value is None and test.comparison_operator not in _UNARY:
            raise ApiError(
                400,
                f"metadata_condition.conditions[{index}]: {test.comparison_operator!r} needs a "
                "value.",
                code="invalid_filter",
                param="metadata_condition",
            )


def _passes(test: MetadataTest, attributes: Mapping[str, Any]) -> bool:
    """Whether one of the named attributes passes."""
    names = [test.name] if isinstance(test.name, str) else test.name
    return any(_compares(test, attributes.get(name)) for name in names)


def _compares(test: MetadataTest, held: Any) -> bool:  # noqa: ANN401
    operator, value = test.comparison_operator, test.value
    if operator in _UNARY:
        missing = held is None or held == ""
        return missing == (operator in ("empty", "null"))
    if operator in ("is not", "not contains", "not in", "≠"):
        return not _matches(_POSITIVE[operator], held, value)
    return _matches(operator, held, value)


_POSITIVE = {"is not": "is", "not contains": "contains", "not in": "in", "≠": "="}


def _matches(operator: str, held: Any, value: Any) -> bool:  # noqa: ANN401
    if held is None:
        return False
    if operator == "in":
        values = value if isinstance(value, list) else [value]
        return any(_text(held) == _text(one) for one in values)
    if operator in _NUMERIC:
        left, right = _number(held), _number(value)
        if left is None or right is None:
            return False
        return {
            "=": left == right, ">": left > right, "<": left < right,
            "≥": left >= right, "≤": left <= right,
        }[operator]  # fmt: skip
    left_text, right_text = _text(held), _text(value)
    match operator:
        case "contains":
            return right_text in left_text
        case "start with":
            return left_text.startswith(right_text)
        case "end with":
            return left_text.endswith(right_text)
        case "before":  # dates as ISO 8601 writes them sort as text
            return left_text < right_text
        case "after":
            return left_text > right_text
        case _:
            return left_text == right_text


def _text(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _number(value: Any) -> float | None:  # noqa: ANN401
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
