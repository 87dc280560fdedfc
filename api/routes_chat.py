"""POST /v1/chat/completions: answers from a store, or the generator alone, for chat clients."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from api.access import Reader
from api.answering import Asked, Sources, answer, needs_generator, stores_of_model, talk
from api.errors import ApiError, as_api_error, error_body
from api.events import DONE, EVENT_SCHEMA, HEADERS, data_only
from api.gone import unless_gone
from api.models import check_model, generator_model
from api.observing import failed
from api.response_shape import account_of, citations
from api.schemas_chat import (
    ChatAnnotation,
    ChatAnswer,
    ChatChoice,
    ChatCreate,
    ChatShown,
    ChatUsage,
    UrlCitation,
)
from api.searching import Wanted
from api.service import Service, service_of
from rag.answering import AnswerOptions, TextDelta
from rag.errors import YoujuError
from rag.prompt import Message
from rag.schema import Answer
from rag.store.ids import new_id
from rag.talk import Said

router = APIRouter(prefix="/v1/chat", tags=["Chat"])
ServiceOf = Annotated[Service, Depends(service_of)]

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ChatShown,
        "content": {"text/event-stream": {"schema": EVENT_SCHEMA}},
        "description": "The answer, or with `stream` its chunks.",
    }
}


@dataclass(slots=True)
class _Chat:
    """A completion while it comes about."""

    body: ChatCreate
    asked: Asked
    ignored: list[str]
    base_url: str
    id: str = field(default_factory=lambda: new_id("chatcmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))
    homes: dict[str, str] = field(default_factory=dict)


@router.post("/completions", responses=_STREAM, response_model=None)
async def create_chat_completion(
    body: ChatCreate, request: Request, access: Reader, service: ServiceOf
) -> Response:
    """Ask a question in a chat.

    The model `youju` answers from the store that the server's settings name, `youju:<store name>`
    from another, with citations in `annotations`; the generator's own name talks without them.
    """
    chat = await _understand(service, request, access.project_id, body)
    if body.stream:
        chunks = _chunks(service, request, chat)
        first = await anext(chunks)  # what is wrong with the request has a status of its own
        return StreamingResponse(
            _after(first, chunks), media_type="text/event-stream", headers=HEADERS
        )
    made = await unless_gone(request, _whole(service, chat))
    usage = await _usage(service, chat, made)
    shown = ChatShown(
        id=chat.id,
        created=chat.created,
        model=body.model,
        choices=[
            ChatChoice(
                message=ChatAnswer(content=made.text, annotations=_annotations(chat, made)),
                finish_reason=made.finish,
            )
        ],
        usage=usage,
        youju=account_of(made, chat.asked, chat.ignored) if isinstance(made, Answer) else None,
    )
    return JSONResponse(shown.model_dump(mode="json"))


async def _understand(
    service: Service, request: Request, project_id: str, body: ChatCreate
) -> _Chat:
    check_model(service.settings, body.model)
    told = [message.text for message in body.messages if message.role in ("system", "developer")]
    turns = [
        Message(message.role, message.text)
        for message in body.messages
        if message.role in ("user", "assistant")
    ]
    if not turns or turns[-1].role != "user":
        raise ApiError(
            400,
            "messages: the last one must be the user's.",
            code="invalid_messages",
            param="messages",
        )
    options = AnswerOptions(
        instructions="\n\n".join(text for text in told if text),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
    )
    rows = await stores_of_model(service, project_id, body.model)
    if not rows:
        needs_generator(service)
    ignored = [name for name in ("presence_penalty", "frequency_penalty") if getattr(body, name)]
    if generator_model(service.settings) is None:
        given = {
            "system messages": options.instructions, "temperature": body.temperature,
            "top_p": body.top_p, "seed": body.seed,
        }  # fmt: skip
        ignored += [name for name, value in given.items() if value not in (None, "")]
    wanted = Wanted(service.settings.top_k)
    asked = Asked(
        turns[-1].content, tuple(turns[:-1]), options, rows, wanted, project_id, request.scope
    )
    return _Chat(body, asked, ignored, str(request.base_url).rstrip("/"))


async def _whole(service: Service, chat: _Chat) -> Answer | Said:
    made: Answer | Said = Said("")
    pieces: Any = answer(service, chat.asked) if chat.asked.rows else talk(service, chat.asked)
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Sources):
                _found(chat, piece)
            elif not isinstance(piece, TextDelta):
                made = piece
    _count(service, made)
    return made


async def _chunks(service: Service, request: Request, chat: _Chat) -> AsyncIterator[str]:
    """Yield the events of a streamed completion."""
    begun = False
    made: Answer | Said = Said("")
    pieces: Any = answer(service, chat.asked) if chat.asked.rows else talk(service, chat.asked)
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                if not begun:
                    begun = True
                    yield _chunk(chat, {"role": "assistant", "content": ""})
                if isinstance(piece, TextDelta):
                    if piece.text:
                        yield _chunk(chat, {"content": piece.text})
                elif isinstance(piece, Sources):
                    _found(chat, piece)
                else:
                    made = piece
        _count(service, made)
        yield await _last(service, chat, made)
    except Exception as error:
        if not begun:
            raise
        known = as_api_error(error if isinstance(error, YoujuError) else YoujuError(""))
        if known.status >= 500:
            failed(request.scope, error)
        yield data_only(error_body(known.message, known.kind, known.code, None))
    yield DONE


def _found(chat: _Chat, sources: Sources) -> None:
    chat.asked = replace(chat.asked, options=sources.retrieved.question.options)
    chat.homes = sources.homes


async def _last(service: Service, chat: _Chat, made: Answer | Said) -> str:
    """Return the last chunk, with the citations, and that of the usage if it is wanted."""
    annotations = [shown.model_dump(mode="json") for shown in _annotations(chat, made)]
    delta = {"annotations": annotations} if annotations else {}
    extra: dict[str, Any] = {}
    if isinstance(made, Answer):
        extra["youju"] = account_of(made, chat.asked, chat.ignored).model_dump(mode="json")
    text = _chunk(chat, delta, finish=made.finish, **extra)
    options = chat.body.stream_options
    if options is not None and options.include_usage:
        usage = await _usage(service, chat, made)
        text += data_only(_frame(chat) | {"choices": [], "usage": usage.model_dump()})
    return text


def _frame(chat: _Chat) -> dict[str, Any]:
    return {
        "id": chat.id,
        "object": "chat.completion.chunk",
        "created": chat.created,
        "model": chat.body.model,
    }


def _chunk(chat: _Chat, delta: dict[str, Any], finish: str | None = None, **extra: Any) -> str:  # noqa: ANN401
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return data_only(_frame(chat) | {"choices": [choice]} | extra)


def _annotations(chat: _Chat, made: Answer | Said) -> list[ChatAnnotation]:
    if isinstance(made, Said):
        return []
    found = []
    for number, cited in enumerate(citations(made, chat.homes), 1):
        mark = f"[{number}]"
        place = cited.youju
        store = place.vector_store_id or chat.asked.rows[0].id
        found.append(
            ChatAnnotation(
                url_citation=UrlCitation(
                    start_index=cited.index,
                    end_index=min(cited.index + len(mark), len(made.text)),
                    title=cited.filename,
                    url=f"{chat.base_url}/v1/vector_stores/{store}/files/{cited.file_id}/content"
                    f"#char={place.start},{place.end}",
                ),
                file_citation=cited,
            )
        )
    return found


async def _usage(service: Service, chat: _Chat, made: Answer | Said) -> ChatUsage:
    if made.tokens:
        spent, written = made.tokens.get("input", 0), made.tokens.get("output", 0)
    else:
        spent, written = await service.run(
            service.rag.tokens.count, [chat.asked.question, made.text]
        )
    return ChatUsage(prompt_tokens=spent, completion_tokens=written, total_tokens=spent + written)


def _count(service: Service, made: Answer | Said) -> None:
    refused = isinstance(made, Answer) and made.refused
    service.meters.answers.labels("refused" if refused else "answered").inc()


async def _after(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for text in rest:
        yield text
