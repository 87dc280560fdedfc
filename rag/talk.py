"""Asks a chat model and reads what it says: text as it comes, how it ended, what it took.

With nothing around it, this is a chat with the generator alone; answers from documents
(rag.chain) ask it the prompt. It retrieves nothing and checks no citation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rag.answering import DEFAULT_OPTIONS, AnswerOptions, TextDelta
from rag.prompt import Message, sound_text

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said.

    Attributes:
        text: All of it; "" if it said nothing.
        finish: "length" if it was cut off at its token limit.
        tokens: Token counts where the model reports them ("input", "output").
    """

    text: str
    finish: Finish = "stop"
    tokens: dict[str, int] = field(default_factory=dict)


class Talker:
    """Asks a chat model. Safe to share between threads where the model is.

    Args:
        model: Any LangChain chat model.
        errors: Wraps each call of the model; turns its faults into ModelError.
        max_tokens: What `AnswerOptions.max_tokens` cannot raise; None: anything goes.
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        errors: Callable[[], AbstractContextManager[None]] = nullcontext,
        max_tokens: int | None = None,
    ) -> None:
        self._model = model
        self._errors = errors
        self._max_tokens = max_tokens

    def say(self, messages: Sequence[Message], options: AnswerOptions = DEFAULT_OPTIONS) -> Said:
        """Return what the model says next.

        Args:
            messages: The chat, oldest first.
            options: Its instructions become the first system message, or go before its text.

        Raises:
            ModelError: If the model cannot be reached or fails.
            PromptTooLong: If the model has no room for the messages.
        """
        reading = _Reading()
        with self._errors():
            reply = self._model.invoke(_turns(messages, options), **self._wishes(options))
            reading.read(reply)
        return reading.said()

    def stream(
        self, messages: Sequence[Message], options: AnswerOptions = DEFAULT_OPTIONS
    ) -> Iterator[TextDelta | Said]:
        """Yield what the model says next as it comes, then all of it; as `say` otherwise.

        Closing the iterator closes the model's stream, which ends the request.
        """
        reading = _Reading()
        chunks: Any = self._model.stream(_turns(messages, options), **self._wishes(options))
        try:
            while True:
                with self._errors():
                    chunk = next(chunks, None)
                    text = "" if chunk is None else reading.read(chunk)
                if chunk is None:
                    break
                if text:
                    yield TextDelta(text)
        finally:
            chunks.close()
        yield reading.said()

    def _wishes(self, options: AnswerOptions) -> dict[str, Any]:
        """What is asked of the model for this answer alone."""
        most = options.max_tokens
        if most is not None and self._max_tokens is not None:
            most = min(most, self._max_tokens)
        wishes = {
            "max_tokens": most,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "seed": options.seed,
        }
        return {name: wish for name, wish in wishes.items() if wish is not None}


class _Reading:
    """What was read of a model's messages, whole ones or chunks."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._finish: Finish = "stop"
        self._tokens: dict[str, int] = {}

    def read(self, message: AIMessage) -> str:
        """Take a message; return its text."""
        text = str(message.text)
        self._parts.append(text)
        if message.response_metadata.get("finish_reason") == "length":
            self._finish = "length"
        usage: Mapping[str, Any] = message.usage_metadata or {}
        for ours, theirs in (("input", "input_tokens"), ("output", "output_tokens")):
            if usage:
                self._tokens[ours] = self._tokens.get(ours, 0) + (usage.get(theirs) or 0)
        return text

    def said(self) -> Said:
        return Said("".join(self._parts), self._finish, self._tokens)


def _turns(messages: Sequence[Message], options: AnswerOptions) -> list[tuple[str, str]]:
    """The messages as LangChain takes them, instructions first; nothing but characters in them."""
    turns: list[tuple[str, str]] = [(turn.role, sound_text(turn.content)) for turn in messages]
    told = sound_text(options.instructions).strip()
    if told and turns and turns[0][0] == "system":
        turns[0] = ("system", f"{told}\n\n{turns[0][1]}")
    elif told:
        turns.insert(0, ("system", told))
    return turns
