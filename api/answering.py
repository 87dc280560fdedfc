"""Answers questions for the routes: which stores, which conversation, pieces as they come.

The chain's steps run in a worker thread, one piece at a time, so that a client that goes away ends
the work at the next piece; their searches go through the batcher with everybody else's.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from anyio import CancelScope, from_thread, to_thread

from api.errors import ApiError
from api.models import generator_model, store_named
from api.routes_stores import usable_store
from api.searching import Wanted, search
from api.service import Service
from rag.answering import AnswerOptions, AnswerPiece, TextDelta
from rag.chain import Chain, Question, Retrieved
from rag.prompt import Message
from rag.schema import Citation
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
    """

    question: str
    history: tuple[Message, ...]
    options: AnswerOptions
    rows: Sequence[StoreRow]
    wanted: Wanted


async def answer(service: Service, asked: Asked) -> AsyncIterator[Retrieved | AnswerPiece]:
    """Yield what was found, text as it becomes certain, and the whole answer.

    Raises:
        YoujuError: As the chain does; what is wrong with the question before anything is yielded.
    """

    def find(query: str, _top_k: int) -> list[Any]:
        return from_thread.run(search, service, asked.rows, [query], asked.wanted)

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
    )
    question = Question(asked.question, asked.wanted.top_k, asked.history, asked.options)
    async for piece in _pieces(service, lambda: chain.stream_answer(question)):
        yield piece


async def talk(service: Service, asked: Asked) -> AsyncIterator[TextDelta | Said]:
    """Yield what the generator says with no documents, as it comes, then all of it.

    Raises:
        UsageError: If the settings name no generator.
        YoujuError: As `Talker.stream`.
    """
    talker = await service.run_long(lambda: service.rag.talker)
    messages = [*asked.history, Message("user", asked.question)]
    async for piece in _pieces(service, lambda: talker.stream(messages, asked.options)):
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


async def _pieces(service: Service, make: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
    """Take an iterator's steps in worker threads, one at a time; close it in the end.

    When the task is cancelled, the step in hand goes on in its thread; closing waits for it.
    """
    steps: Any = make()
    stepping = threading.Lock()

    def step() -> T | None:
        with stepping:
            return next(steps, None)

    def close() -> None:
        with stepping:
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
