"""A loaded ChatGLM3 that answers chats: turns in, text and tool calls out, many at once.

It joins the tokenizer, the chat format and the engine; LangChain's types are chat_models.py's
business.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rag.errors import CheckpointError, ConfigError
from rag.glm.chat import Turn, prompt_ids
from rag.glm.config import DTYPES, Dtype
from rag.glm.engine import Engine
from rag.glm.generation import Generation, Request
from rag.glm.hub import find_checkpoint
from rag.glm.load import LoadedGlm, require_device
from rag.glm.reply import Call, ReplyReader
from rag.glm.sampling import Sampling, Token
from rag.glm.source import Source, open_source
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
        finish: "stop" (the model ended, or a stop string was met), "tool_calls", or "length", and
            then the last call may be cut off.
        prompt_tokens: Ids of the prompt.
        new_tokens: Ids generated, the one that stopped it included.
    """

    calls: tuple[Call, ...]
    finish: str
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Found:
    """A model's folder, looked through without loading its weights.

    Attributes:
        folder: Where it is.
        source: What it holds.
        tokenizer: Its tokenizer.
    """

    folder: Path
    source: Source
    tokenizer: ChatGLM3Tokenizer

    @property
    def context(self) -> int:
        """Tokens the model was made for, answer included."""
        return self.source.shape.context

    def count_tokens(self, text: str) -> int:
        """Return how many ids a text has."""
        return len(self.tokenizer.encode(text))


def look_up(model: str, *, download: bool = False) -> Found:
    """Find a model and look it through.

    Args:
        model: A folder, or a name on the hub.
        download: Fetch it if it is not here.

    Raises:
        ModelError: If there is no such model here.
        CheckpointError: If it is another model, incomplete, damaged, or has no tokenizer.
    """
    folder = find_checkpoint(model, download=download)
    source = open_source(folder)
    source.weights.close()
    return Found(folder, source, _tokenizer(source.name, source.tokenizer))


def fitting(dtype: str | None, device: str, source: Source) -> tuple[Dtype | None, str]:
    """Resolve "auto".

    Args:
        dtype: A dtype, None for the stored one, or "auto": the stored one, but bfloat16 in place of
            float16 on a CPU, which computes float16 slowly and runs out of its range.
        device: A device, or "auto": the first GPU if PyTorch has one.
        source: The model.

    Raises:
        ConfigError: If the dtype is none, or the device is not there.
    """
    cuda = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if cuda else "cpu"
    require_device(device)
    if dtype == "auto":
        slow = device == "cpu" and source.dtype == "float16"
        return ("bfloat16" if slow else source.dtype), device
    if dtype not in (None, *DTYPES):
        raise ConfigError(f"Unknown dtype {dtype!r}.", do=f"Expected {', '.join(DTYPES)}, auto.")
    return dtype, device


def _tokenizer(name: str, tokenizer: ChatGLM3Tokenizer | None) -> ChatGLM3Tokenizer:
    if tokenizer is None:
        raise CheckpointError(
            f"{name} has no tokenizer.model.", do="Copy it into the model's folder."
        )
    return tokenizer


class ServedGlm:
    """A model, its tokenizer and its engine, which ends when this is closed or dropped.

    Args:
        loaded: The model.
        batch: Most requests that run at once.
        queue: Most requests that wait beside them.

    Raises:
        CheckpointError: If it came without a tokenizer.
    """

    def __init__(self, loaded: LoadedGlm, *, batch: int = 8, queue: int = 32) -> None:
        self.loaded = loaded
        self.name = loaded.name
        self.context = loaded.shape.context
        self.tokenizer = _tokenizer(loaded.name, loaded.tokenizer)
        stop_ids = sorted({*loaded.stop_ids, *self.tokenizer.stop_ids})
        self.engine = Engine(
            loaded.model, stop_ids=stop_ids, context=self.context, prefix=loaded.prefix,
            batch=batch, queue=queue,
        )  # fmt: skip
        # The engine's thread holds the engine and the weights, and knows nothing of this object.
        # Nobody is kept waiting for that thread here; at exit the engine itself sees to it.
        weakref.finalize(self, self.engine.end).atexit = False

    def answer(self, turns: Sequence[Turn], ask: Ask) -> Generator[Piece | Final, None, None]:
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
        end = generation.end
        cut = end is not None and end.reason == "length"
        text = self._reader.end(cut=cut)
        if text:
            yield Piece(text)
        count = self._count + (end is not None and end.stop_id is not None)
        finish = "tool_calls" if self._reader.calls else "stop"
        if cut and not self.stopped:
            finish = "length"
        yield Final(tuple(self._reader.calls), finish, len(self.request.ids), count)
