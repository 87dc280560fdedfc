"""A loaded ChatGLM3 that answers chats: turns in, text and tool calls out, many at once.

It joins the tokenizer, the chat format and the engine; LangChain's types are chat_models.py's
business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rag.errors import CheckpointError
from rag.glm.chat import Turn, prompt_ids
from rag.glm.engine import Engine
from rag.glm.generation import Generation, Request
from rag.glm.load import LoadedGlm
from rag.glm.reply import Call, ReplyReader
from rag.glm.sampling import Sampling, Token
from rag.glm.tokenizer import ChatGLM3Tokenizer


@dataclass(frozen=True, slots=True)
class Ask:
    """How a chat is to be answered.

    Attributes:
        max_new_tokens: As in `Request`.
        sampling: How tokens are chosen.
        top_logprobs: As in `Request`.
        timeout_s: As in `Request`.
        stops: Strings that end the text, which they are not part of.
        tools: Names of the tools that may be called; the turns describe them.
        must_call: Names of which one must be called; () leaves it to the model.
    """

    max_new_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    top_logprobs: int | None = None
    timeout_s: float | None = None
    stops: Sequence[str] = ()
    tools: Sequence[str] = ()
    must_call: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an answer.

    Attributes:
        text: What is certain now, perhaps "".
        tokens: The tokens read since the last piece; their text may come later.
    """

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Final:
    """The end of an answer.

    Attributes:
        calls: Tool calls, in order, unparsed.
        finish: "stop" (the model ended, or a stop string was met), "tool_calls" or "length".
        prompt_tokens: Ids of the prompt.
        new_tokens: Ids generated, the one that stopped it included.
    """

    calls: tuple[Call, ...]
    finish: str
    prompt_tokens: int
    new_tokens: int


class ServedGlm:
    """A model, its tokenizer and its engine.

    Args:
        loaded: The model.
        batch: Most requests that run at once.
        queue: Most requests that wait beside them.

    Raises:
        CheckpointError: If it came without a tokenizer.
    """

    def __init__(self, loaded: LoadedGlm, *, batch: int = 8, queue: int = 32) -> None:
        if loaded.tokenizer is None:
            raise CheckpointError(
                f"{loaded.name} has no tokenizer.model.", do="Copy it into the model's folder."
            )
        self.name = loaded.name
        self.context = loaded.shape.context
        self.tokenizer: ChatGLM3Tokenizer = loaded.tokenizer
        stop_ids = sorted({*loaded.stop_ids, *loaded.tokenizer.stop_ids})
        self.engine = Engine(
            loaded.model, stop_ids=stop_ids, context=self.context, prefix=loaded.prefix,
            batch=batch, queue=queue,
        )  # fmt: skip

    def answer(self, turns: Sequence[Turn], ask: Ask) -> Iterator[Piece | Final]:
        """Answer a chat: pieces as they come, then how it ended.

        Leaving the iteration early ends the request.

        Raises:
            PromptTooLong, QueueFull, EngineClosed: Before anything is computed.
            GenerationFailed: If this request failed.
        """
        reading = self._begin(turns, ask)
        generation = self.engine.submit(reading.request)
        try:
            for token in generation:
                yield reading.piece(token)
                if reading.stopped:
                    break
            yield from reading.close(generation)
        finally:
            generation.cancel()

    async def aanswer(self, turns: Sequence[Turn], ask: Ask) -> AsyncGenerator[Piece | Final, None]:
        """Answer a chat in a coroutine, as `answer` does."""
        reading = self._begin(turns, ask)
        generation = self.engine.submit(reading.request, asyncio.get_running_loop())
        try:
            async for token in generation:
                yield reading.piece(token)
                if reading.stopped:
                    break
            for last in reading.close(generation):
                yield last
        finally:
            generation.cancel()

    def close(self) -> None:
        """End all requests and the engine's thread."""
        self.engine.close()

    def _begin(self, turns: Sequence[Turn], ask: Ask) -> _Reading:
        request = Request(
            prompt_ids(self.tokenizer, turns),
            ask.max_new_tokens,
            ask.sampling,
            ask.top_logprobs,
            ask.timeout_s,
            [self.tokenizer.encode(f"{name}\n") for name in ask.must_call],
        )
        return _Reading(request, ReplyReader(self.tokenizer, tools=ask.tools, stops=ask.stops))


class _Reading:
    """An answer as far as it was read."""

    def __init__(self, request: Request, reader: ReplyReader) -> None:
        self.request = request
        self._reader = reader
        self._count = 0

    @property
    def stopped(self) -> bool:
        return self._reader.stopped is not None

    def piece(self, token: Token) -> Piece:
        self._count += 1
        return Piece(self._reader.push(token.id), (token,))

    def close(self, generation: Generation) -> Iterator[Any]:
        text = self._reader.end()
        if text:
            yield Piece(text)
        end = generation.end
        count = self._count + (end is not None and end.stop_id is not None)
        finish = "length" if end is not None and end.reason == "length" else "stop"
        if self._reader.calls:
            finish = "tool_calls"
        yield Final(tuple(self._reader.calls), finish, len(self.request.ids), count)
