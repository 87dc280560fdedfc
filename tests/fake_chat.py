"""A chat model that says what a test wants, in the pieces that it wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

from rag.index.analyze import Analyzer
from rag.schema import Answer, Chunk, Hit

MANUAL = (
    "Keep the room dry. The JL-200 pump weighs 18,600 g without its motor. Its rated flow is "
    "40 m³/h."
)
HANDBOOK = "年假为 12 天。陪产假为 15 天，须在配偶生产前后六十天内使用。"
HITS = [
    Hit(Chunk(1, "manual.md", 100, 100 + len(MANUAL), MANUAL, "Manual", 4), 0.9),
    Hit(Chunk(2, "hr.docx", 0, len(HANDBOOK), HANDBOOK), 0.5),
]
USAGE = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}


class FakeChat(BaseChatModel):
    """Says `pieces`, one after another; `usage` and `finish` come with the end.

    Attributes:
        fails_after: Raises ConnectionError after so many pieces; -1: never.
    """

    pieces: list[str]
    finish: str = "stop"
    usage: bool = True
    fails_after: int = -1

    _asked: list[tuple[list[BaseMessage], dict[str, Any]]] = PrivateAttr(default_factory=list)
    _said: int = PrivateAttr(default=0)
    _open: int = PrivateAttr(default=0)

    @property
    def asked(self) -> list[tuple[list[BaseMessage], dict[str, Any]]]:
        """Messages and keyword arguments of each call."""
        return self._asked

    @property
    def said(self) -> int:
        """Pieces said so far."""
        return self._said

    @property
    def open(self) -> int:
        """Streams begun and not ended."""
        return self._open

    @property
    def _llm_type(self) -> str:
        return "fake"

    def _end(self) -> dict[str, Any]:
        return {
            "usage_metadata": USAGE if self.usage else None,
            "response_metadata": {"finish_reason": self.finish},
        }

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._asked.append((messages, kwargs))
        message = AIMessage(content="".join(self.pieces), **self._end())
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        self._asked.append((messages, kwargs))
        self._open += 1
        try:
            for number, piece in enumerate(self.pieces):
                if number == self.fails_after:
                    raise ConnectionError("gone")
                self._said += 1
                yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
            yield ChatGenerationChunk(message=AIMessageChunk(content="", **self._end()))
        finally:
            self._open -= 1


class Sure:
    """A judge that finds evidence for anything."""

    def answer(self, question: str, hits: Sequence[Hit], *_: Any, **__: Any) -> Answer:
        return Answer("", refused=False, confidence=0.9)

    def stream(self, question: str, hits: Sequence[Hit], *_: Any, **__: Any) -> Any:
        raise AssertionError("a judge is asked for a whole answer")


_ANALYZERS: list[Analyzer] = []


def analyzer() -> Analyzer:
    """One for all tests: it takes a second to make."""
    if not _ANALYZERS:
        _ANALYZERS.append(Analyzer())
    return _ANALYZERS[0]
