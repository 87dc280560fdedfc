"""What users think of answers: recorded, listed, exported as examples for fine-tuning."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from api.access import Reader, Writer
from api.errors import not_found
from api.routes_responses import owned_response
from api.schemas import After, Before, Limit, Listing, Order
from api.schemas_responses import FeedbackCreate, FeedbackShown
from api.service import Service, service_of
from rag.errors import QueryError
from rag.prompt import Message, PromptTemplate, build_prompt, load_template
from rag.schema import Chunk, Hit
from rag.store.answers import Rating
from rag.store.pages import Slice
from rag.store.service_tables import FeedbackRow, ResponseRow

_MARK = re.compile(r"( ?)\[(\d{1,3})\]")

router = APIRouter(prefix="/v1", tags=["Feedback"])
ServiceOf = Annotated[Service, Depends(service_of)]
RatingFilter = Annotated[Rating | None, Query(description="Only those of this rating.")]


@router.post("/responses/{response_id}/feedback")
async def create_feedback(
    response_id: str, body: FeedbackCreate, access: Reader, service: ServiceOf
) -> FeedbackShown:
    """Say what is thought of an answer."""
    response = await owned_response(service, access.project_id, response_id)
    row = await service.write(
        service.responses.rate, response, body.rating, body.correction, body.comment
    )
    if row is None:
        raise not_found("response", response_id)
    return _show(row)


@router.get("/feedback")
async def list_feedback(
    access: Reader,
    service: ServiceOf,
    limit: Limit = 20,
    order: Order = "desc",
    after: After = "",
    before: Before = "",
    rating: RatingFilter = None,
) -> Listing[FeedbackShown]:
    """List the feedback."""
    part = Slice(limit=limit, order=order, after=after, before=before)
    page = await service.run(service.responses.feedback, access.project_id, part, rating)
    data = [_show(row) for row in page.items]
    return Listing(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=page.has_more,
    )


@router.get(
    "/feedback/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {}}, "description": "A line for each."}},
)
async def export_feedback(access: Writer, service: ServiceOf) -> StreamingResponse:
    """Export training examples, one JSON object a line, as ChatGLM3's official data has them.

    Each is a conversation: the prompt with the passages that were found, and the answer that was
    right: the correction, or the given answer where it was rated "up". Of several opinions on an
    answer the last one counts. Answers rated "down" without a correction teach nothing and are left
    out; so are questions too long for the prompt. Marks count the passages of the prompt.
    """
    lines = _lines(service, access.project_id)
    return StreamingResponse(lines, media_type="application/jsonl")


def _lines(service: Service, project_id: str) -> Iterator[str]:
    template = load_template(service.settings.prompt_file)
    count = service.rag.tokens.count
    budget = service.settings.prompt_tokens
    for feedback, response in service.responses.rated(project_id):
        right = feedback.correction or (response.answer if feedback.rating == "up" else None)
        if right is not None:
            try:
                messages = _prompt(response, template, lambda text: count([text])[0], budget)
            except QueryError:  # too long for a generator's prompt, asked where there is none
                continue
            turns = [{"role": turn.role, "content": turn.content} for turn in messages]
            turns.append({"role": "assistant", "content": renumbered(right, response)})
            yield json.dumps({"conversations": turns}, ensure_ascii=False) + "\n"


def renumbered(text: str, response: ResponseRow) -> str:
    """Return an answer whose marks count the prompt's passages instead of its citations.

    A mark to no citation of the response, or to one whose passage is not known, is left out.
    """
    cited = [
        citation
        for item in response.body["output"]
        if item["type"] == "message"
        for citation in item["content"][0]["annotations"]
    ]
    passages: dict[int, int] = {}
    for number, citation in enumerate(cited, 1):
        place = citation["youju"]
        for index, passage in enumerate(response.passages, 1):
            inside = passage["start"] <= place["start"] and place["end"] <= passage["end"]
            if inside and passage["file_id"] == citation["file_id"]:
                passages[number] = index
                break

    def mark(match: re.Match[str]) -> str:
        number = passages.get(int(match[2]))
        return "" if number is None else f"{match[1]}[{number}]"

    return _MARK.sub(mark, text)


def _prompt(
    response: ResponseRow, template: PromptTemplate, count: Callable[[str], int], budget: int
) -> list[Message]:
    """Return the prompt as the generator would have got it."""
    hits = [
        Hit(
            Chunk(
                id=number,
                file=passage["file"],
                start=0,
                end=len(passage["text"]),
                text=passage["text"],
                context=passage["context"],
                page=passage["page"],
            ),
            score=0.0,
        )
        for number, passage in enumerate(response.passages, 1)
    ]
    history = [Message(role, text) for role, text in response.turns[:-2]]
    return build_prompt(
        response.question, hits, history, template=template, count_tokens=count, budget=budget
    ).messages


def _show(row: FeedbackRow) -> FeedbackShown:
    return FeedbackShown.model_validate(
        {
            "id": row.id,
            "created_at": row.created_at,
            "response_id": row.response_id,
            "rating": row.rating,
            "correction": row.correction,
            "comment": row.comment,
        }
    )
