"""Answers questions for the routes: which stores, which conversation, pieces as they come.

The chain's steps run in a worker thread, one piece at a time, so that a client that goes away ends
the work at the next piece; their searches go through the batcher with everybody else's.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from anyio import CancelScope, from_thread, to_thread
from starlette.types import Scope

from api.batching import Attributes
from api.errors import ApiError
from api.models import generator_model, store_named
from api.observing import note_content
from api.routes_stores import usable_store
from api.searching import Wanted, search
from api.service import Service
from api.tracing import Span
from rag.answering import AnswerOptions, AnswerPiece, TextDelta
from rag.chain import Chain, Question, Retrieved
from rag.prompt import Message
from rag.schema import Answer, Citation, Hit
from rag.store.tables import StoreRow
from rag.talk import Said

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the routes understand it.

    Attributes:
        question: What is asked.
        history: The conversation before it, oldest first.
        options: How the answer is to be written.
        rows: The stores that it comes from; () to ask the generator alone.
        wanted: Which passages.
        project_id: Who asks.
        scope: The request's, for its log line; None for none.
    """

    question: str
    history: tuple[Message, ...]
    options: AnswerOptions
    rows: Sequence[StoreRow]
    wanted: Wanted
    project_id: str
    scope: Scope | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """What a question's search found.

    Attributes:
        retrieved: What the chain has of it.
        attributes: The files' attributes by file id.
        homes: Ids of the stores by file id; of a file in several the first that was asked for.
    """

    retrieved: Retrieved
    attributes: dict[str, Attributes]
    homes: dict[str, str]


async def answer(service: Service, asked: Asked) -> AsyncIterator[Sources | AnswerPiece]:
    """Yield what was found, text as it becomes certain, and the whole answer.

    Raises:
        YoujuError: As the chain does; what is wrong with the question before anything is yielded.
    """
    _log(asked, question=asked.question)
    ids = [row.id for row in asked.rows]
    attributes: dict[str, Attributes] = {}
    homes: dict[str, str] = {}

    def find(query: str, _top_k: int) -> list[Hit]:
        found = from_thread.run(search, service, asked.project_id, ids, [query], asked.wanted)
        attributes.update(found.attributes)
        homes.update(found.homes)
        return found.hits

    def page_of(cited: Citation) -> int | None:
        for row in asked.rows:
            page = service.stores.open(row).page_in_file(cited.file_id, cited.start)
            if page is not None:
                return page
        return cited.page

    chain = Chain(
        find,
        await service.run_long(lambda: service.rag.answerer),
        page_of,
        service.settings.max_question_chars,
        service.rag.condense,
        service.rag.expand,
    )
    question = Question(asked.question, asked.wanted.top_k, asked.history, asked.options)
    async for piece in _traced(service, _pieces(service, lambda: chain.stream_answer(question))):
        if isinstance(piece, Retrieved):
            _log(asked, files=list(dict.fromkeys(hit.chunk.file for hit in piece.hits)))
            yield Sources(piece, attributes, homes)
        else:
            yield piece


async def talk(service: Service, asked: Asked) -> AsyncIterator[TextDelta | Said]:
    """Yield what the generator says with no documents, as it comes, then all of it.

    Raises:
        UsageError: If the settings name no generator.
        YoujuError: As `Talker.stream`.
    """
    talker = await service.run_long(lambda: service.rag.talker)
    messages = [*asked.history, Message("user", asked.question)]
    _log(asked, question=asked.question)
    said = _pieces(service, lambda: talker.stream(messages, asked.options))
    async for piece in _traced(service, said, begun=True):
        yield piece


async def stores_of_model(service: Service, project_id: str, model: str) -> list[StoreRow]:
    """Return the store that a model's name asks for; [] for the generator's own name.

    Raises:
        ApiError: If there is no such store, or several have the name.
    """
    named = store_named(model)
    if named is None:
        return []
    title = named or service.settings.store
    if title.startswith("vs_"):
        return [await usable_store(service, project_id, title)]
    found = await service.run(service.stores.titled, project_id, title)
    if len(found) == 1:
        return [await usable_store(service, project_id, found[0].id)]
    if found:
        raise ApiError(
            400,
            f"model: {len(found)} vector stores are named {title[:80]!r}. Name one by its id: "
            f"youju:{found[0].id}.",
            code="ambiguous_store",
            param="model",
        )
    if not named:
        raise ApiError(
            404,
            f"model: the server has no store named {title[:80]!r} (the setting `store`). Name one: "
            "youju:<store name>, or youju:<store id>.",
            code="vector_store_not_found",
            param="model",
        )
    raise ApiError(
        404,
        f"model: no vector store is named {title[:80]!r}. Make it, or name another: "
        "youju:<store name>.",
        code="vector_store_not_found",
        param="model",
    )


def needs_generator(service: Service) -> None:
    """Refuse to chat without documents if there is nobody to chat with.

    Raises:
        ApiError: 400 that says what to do.
    """
    if generator_model(service.settings) is None:
        raise ApiError(
            400,
            "The server has no language model: it only answers from a vector store. Give one with "
            "the tool file_search, or with the model youju:<store name>.",
            code="no_generator",
            param="tools",
        )


def _log(asked: Asked, **content: object) -> None:
    if asked.scope is not None:
        note_content(asked.scope, **content)


async def _traced(
    service: Service, pieces: AsyncIterator[T], *, begun: bool = False
) -> AsyncIterator[T]:
    """Pass pieces on; the writing, which begins when passages are found, is a span of a trace."""
    span = service.tracing.begin("generation") if begun else None
    try:
        async with aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                if isinstance(piece, Answer):
                    if span is not None:
                        _tell(span, piece.tokens, piece.finish)
                        span.tell(refused=piece.refused, citations=len(piece.citations))
                elif isinstance(piece, Said) and span is not None:
                    _tell(span, piece.tokens, piece.finish)
                yield piece
                if isinstance(piece, Retrieved):
                    span = service.tracing.begin("generation", passages=len(piece.hits))
    except BaseException as error:
        if span is not None:
            span.end(error)
        raise
    finally:
        if span is not None:
            span.end()


def _tell(span: Span, tokens: Mapping[str, int], finish: str) -> None:
    counts = {f"{name}_tokens": count for name, count in tokens.items()}
    span.tell(finish=finish, **counts)


async def _pieces(service: Service, make: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
    """Take an iterator's steps in worker threads, one at a time; close it in the end.

    A task that is cancelled leaves a step running in its thread: closing waits for that.
    """
    steps: Any = make()
    one = threading.Lock()

    def step() -> T | None:
        with one:
            found: T | None = next(steps, None)
            return found

    def close() -> None:
        with one:
            steps.close()

    try:
        while True:
            piece = await service.run_long(step)
            if piece is None:
                return
            yield piece
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(close)
