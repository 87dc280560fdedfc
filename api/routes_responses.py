"""/v1/responses: ask, go on asking, look at an answer again, delete it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from api.access import Reader, Writer
from api.answering import Asked, Sources, answer, needs_generator, stores_of_model, talk
from api.errors import ApiError, as_api_error, not_found
from api.events import EVENT_SCHEMA, HEADERS, ResponseEvents
from api.gone import unless_gone
from api.models import check_model, generator_model
from api.observing import failed
from api.response_shape import Draft, citations, usage_of
from api.routes_stores import usable_store
from api.schemas_responses import (
    FileSearchCall,
    InputItem,
    ResponseCreate,
    ResponseDeleted,
    ResponseShown,
    Usage,
)
from api.searching import Wanted, passes
from api.service import Service, service_of
from rag.answering import AnswerOptions, TextDelta
from rag.errors import YoujuError
from rag.filters import parse_filter
from rag.prompt import Message
from rag.schema import Answer, Hit
from rag.store.answers import NewResponse
from rag.store.service_tables import ResponseRow
from rag.store.tables import StoreRow
from rag.talk import Said

router = APIRouter(prefix="/v1/responses", tags=["Responses"])
ServiceOf = Annotated[Service, Depends(service_of)]

MOST_TURNS = 40
"""Messages of a conversation that are kept; the oldest go first."""

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ResponseShown,
        "content": {"text/event-stream": {"schema": EVENT_SCHEMA}},
        "description": "The answer, or with `stream` its events.",
    }
}


@router.post("", responses=_STREAM, response_model=None)
async def create_response(
    body: ResponseCreate, request: Request, access: Reader, service: ServiceOf
) -> Response:
    """Ask a question.

    The answer comes from the stores that the tool `file_search` names, or from the one of the
    model's name (`youju` or `youju:<store name>`), and cites its passages; the generator's own
    model name without that tool asks the generator alone. `previous_response_id` goes on with a
    conversation: a follow-up question is understood from it.
    """
    draft = await _draft(service, request, access.project_id, body)
    if body.stream:
        events = _events(service, request, access.project_id, draft)
        first = await anext(events)  # what is wrong with the request has a status of its own
        return StreamingResponse(
            _after(first, events), media_type="text/event-stream", headers=HEADERS
        )
    shown = await unless_gone(request, _whole(service, access.project_id, draft))
    return JSONResponse(shown.model_dump(mode="json"))


@router.get("/{response_id}")
async def get_response(response_id: str, access: Reader, service: ServiceOf) -> ResponseShown:
    """Return an answer again."""
    row = await owned_response(service, access.project_id, response_id)
    return ResponseShown.model_validate(row.body)


@router.delete("/{response_id}")
async def delete_response(response_id: str, access: Writer, service: ServiceOf) -> ResponseDeleted:
    """Forget an answer, and what was thought of it."""
    row = await owned_response(service, access.project_id, response_id)
    await service.write(service.responses.delete, row.id)
    return ResponseDeleted(id=row.id)


async def owned_response(service: Service, project_id: str, response_id: str) -> ResponseRow:
    """Return an answer of a project.

    Raises:
        ApiError: 404 if there is none of that id.
    """
    row = await service.run(service.responses.get, project_id, response_id)
    if row is None:
        raise not_found("response", response_id)
    return row


async def _draft(
    service: Service, request: Request, project_id: str, body: ResponseCreate
) -> Draft:
    """Understand a request."""
    check_model(service.settings, body.model)
    history = await _history(service, project_id, body.previous_response_id)
    told, turns = _conversation(body.input)
    if not turns or turns[-1].role != "user":
        raise ApiError(
            400, "input: its last message must be the user's.", code="invalid_input", param="input"
        )
    instructions = "\n\n".join(text for text in (body.instructions, *told) if text)
    options = AnswerOptions(
        instructions=instructions,
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
    )
    rows, wanted = await _sources(service, project_id, body)
    if not rows:
        needs_generator(service)
    ignored: list[str] = []
    if generator_model(service.settings) is None:
        given = {"instructions": instructions, "temperature": body.temperature, "top_p": body.top_p}
        ignored = [name for name, value in given.items() if value not in (None, "")]
    before = (*history, *turns[:-1])
    asked = Asked(turns[-1].content, before, options, rows, wanted, project_id, request.scope)
    return Draft(body, asked, ignored)


async def _history(service: Service, project_id: str, previous: str | None) -> list[Message]:
    if previous is None:
        return []
    row = await service.run(service.responses.get, project_id, previous)
    if row is None:
        raise ApiError(
            404,
            f"previous_response_id: no response with id {previous[:80]!r}.",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    return [Message(role, text) for role, text in row.turns]


def _conversation(given: str | list[InputItem]) -> tuple[list[str], list[Message]]:
    """Return instructions and turns of an input."""
    if isinstance(given, str):
        return [], [Message("user", given)]
    told: list[str] = []
    turns: list[Message] = []
    for item in given:
        if item.type != "message":
            continue
        if item.role in ("user", "assistant"):
            turns.append(Message(item.role, item.text))
        else:
            told.append(item.text)
    return told, turns


async def _sources(
    service: Service, project_id: str, body: ResponseCreate
) -> tuple[list[StoreRow], Wanted]:
    """Return the stores and passages that a request asks for."""
    if body.tool_choice == "none":
        return [], Wanted(service.settings.top_k)
    if not body.tools:
        rows = await stores_of_model(service, project_id, body.model)
        return rows, Wanted(service.settings.top_k)
    tool = body.tools[0]
    ids = dict.fromkeys(tool.vector_store_ids)
    try:
        rows = [await usable_store(service, project_id, store_id) for store_id in ids]
    except ApiError as error:  # the field here, not the path's
        error.param = "tools.0.vector_store_ids"
        raise
    ranking = tool.ranking_options
    return rows, Wanted(
        top_k=tool.max_num_results or service.settings.top_k,
        test=passes(None if tool.filters is None else parse_filter(tool.filters)),
        rerank=ranking is None or ranking.ranker != "none",
        threshold=ranking.score_threshold if ranking else 0.0,
    )


async def _whole(service: Service, project_id: str, draft: Draft) -> ResponseShown:
    hits: list[Hit] = []
    call = None
    if not draft.asked.rows:
        said = Said("")
        async for piece in talk(service, draft.asked):
            said = said if isinstance(piece, TextDelta) else piece
        return await _kept(service, project_id, draft, said, hits)
    made: Answer | None = None
    async for found in answer(service, draft.asked):
        if isinstance(found, Sources):
            hits = found.retrieved.hits
            call = _search_call(draft, found)
        elif isinstance(found, Answer):
            made = found
    assert made is not None, "an answerer ends with its answer"
    usage = await _usage(service, draft, made.text, made.tokens)
    shown = draft.answered(call, made, hits, usage)
    await _keep(service, project_id, draft, shown, made.text, hits, refused=made.refused)
    return shown


async def _events(
    service: Service, request: Request, project_id: str, draft: Draft
) -> AsyncIterator[str]:
    events = ResponseEvents(draft)
    begun = False
    try:
        inner = (
            _talked(service, project_id, draft, events)
            if not draft.asked.rows
            else (_answered(service, project_id, draft, events))
        )
        async with aclosing(inner):  # type: ignore[type-var]
            async for text in inner:
                begun = True
                yield text
    except Exception as error:
        if not begun:
            raise
        known = as_api_error(error if isinstance(error, YoujuError) else YoujuError(""))
        if known.status >= 500:
            failed(request.scope, error)
        code = "rate_limit_exceeded" if known.status == 429 else "server_error"
        yield events.fail(known.message, code)


async def _answered(
    service: Service, project_id: str, draft: Draft, events: ResponseEvents
) -> AsyncIterator[str]:
    hits: list[Hit] = []
    call = None
    made: Answer | None = None
    async with aclosing(answer(service, draft.asked)) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            if isinstance(piece, Sources):
                hits = piece.retrieved.hits
                call = _search_call(draft, piece)
                yield events.begin() + events.search(call) + events.open_message()
            elif isinstance(piece, TextDelta):
                if piece.text:
                    yield events.delta(piece.text)
            else:
                made = piece
    assert made is not None, "an answerer ends with its answer"
    usage = await _usage(service, draft, made.text, made.tokens)
    shown = draft.answered(call, made, hits, usage)
    await _keep(service, project_id, draft, shown, made.text, hits, refused=made.refused)
    cut = made.finish == "length"
    yield events.close_message(made.text, citations(made, draft.homes), cut=cut) + events.end(shown)


async def _talked(
    service: Service, project_id: str, draft: Draft, events: ResponseEvents
) -> AsyncIterator[str]:
    said = Said("")
    begun = False
    async with aclosing(talk(service, draft.asked)) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            if not begun:
                begun = True
                yield events.begin() + events.open_message()
            if isinstance(piece, TextDelta):
                yield events.delta(piece.text)
            else:
                said = piece
    shown = await _kept(service, project_id, draft, said, [])
    cut = said.finish == "length"
    yield events.close_message(said.text, [], cut=cut) + events.end(shown)


async def _kept(
    service: Service, project_id: str, draft: Draft, said: Said, hits: list[Hit]
) -> ResponseShown:
    usage = await _usage(service, draft, said.text, said.tokens)
    shown = draft.said(said, usage)
    await _keep(service, project_id, draft, shown, said.text, hits, refused=False)
    return shown


def _search_call(draft: Draft, found: Sources) -> FileSearchCall:
    draft.asked = replace(draft.asked, options=found.retrieved.question.options)
    draft.homes = found.homes
    return draft.search_call(found.retrieved.hits, found.attributes)


async def _usage(service: Service, draft: Draft, text: str, tokens: dict[str, int]) -> Usage:
    if tokens:
        return usage_of(tokens, 0, 0)
    question, made = await service.run(service.rag.tokens.count, [draft.asked.question, text])
    return usage_of({}, question, made)


async def _keep(
    service: Service,
    project_id: str,
    draft: Draft,
    shown: ResponseShown,
    text: str,
    hits: list[Hit],
    *,
    refused: bool,
) -> None:
    """Keep an answer for going on from it, unless the client does not want that."""
    service.meters.answers.labels("refused" if refused else "answered").inc()
    if draft.body.store is False:
        return
    asked = draft.asked
    turns = [[turn.role, turn.content] for turn in asked.history]
    turns += [["user", asked.question], ["assistant", text]]
    new = NewResponse(
        id=draft.id,
        project_id=project_id,
        previous_id=draft.body.previous_response_id,
        question=asked.question,
        answer=text,
        refused=refused,
        passages=[
            {
                "file": hit.chunk.file,
                "file_id": hit.chunk.file_id,
                "start": hit.chunk.start,
                "end": hit.chunk.end,
                "page": hit.chunk.page,
                "context": hit.chunk.context,
                "text": hit.chunk.text,
            }
            for hit in hits
        ],
        turns=turns[-MOST_TURNS:],
        body=shown.model_dump(mode="json"),
    )
    await service.write(service.responses.add, new)


async def _after(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for text in rest:
        yield text
