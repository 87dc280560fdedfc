"""What is asked of a running model, and the answer as it comes: one object on each side.

A `Request` is ids and limits; a `Generation` is what `Engine.submit` gives for it, to be read by
one thread or one coroutine. How many run side by side is engine.py's business; text is no one's
here.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from rag.errors import ConfigError, YoujuError
from rag.glm.sampling import MOST_TOP_LOGPROBS, Sampling, Token, is_number, is_whole

Reason: TypeAlias = Literal["stop", "length", "cancelled"]
"""Why a generation ended: a stop id, its limit or the context's end, or its reader."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is to continue.

    Attributes:
        ids: The prompt, at least one id.
        max_new_tokens: Most tokens to generate, stop id included, > 0; None as many as the
            context leaves room for, which is the limit in any case.
        sampling: How tokens are chosen.
        top_logprobs: Alternatives to report with each token, 0 to 20; None leaves
            log-probabilities out.
        timeout_s: Seconds after which it fails, waiting included, > 0; None for no limit. It is
            looked at between steps.
        beginnings: Ids one of which the answer must begin with; () for any answer.

    Raises:
        ConfigError: If a number is out of range.
    """

    ids: Sequence[int]
    max_new_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    top_logprobs: int | None = None
    timeout_s: float | None = None
    beginnings: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        if not self.ids or min(self.ids) < 0:
            raise ConfigError("A prompt is at least one id, none negative.")
        most, top, timeout = self.max_new_tokens, self.top_logprobs, self.timeout_s
        if most is not None and not (is_whole(most) and most > 0):
            raise ConfigError(
                f"max_new_tokens = {most!r} is not allowed.",
                do="Expected a whole number, 1 or more.",
            )
        if any(not beginning for beginning in self.beginnings):
            raise ConfigError("A beginning of an answer is empty.", do="Leave it out.")
        if timeout is not None and not (is_number(timeout) and timeout > 0):
            raise ConfigError(f"timeout_s = {timeout!r} is not allowed.", do="Expected > 0.")
        if top is not None and not (is_whole(top) and 0 <= top <= MOST_TOP_LOGPROBS):
            raise ConfigError(
                f"top_logprobs = {top!r} is not allowed.",
                do=f"Expected a whole number, 0 to {MOST_TOP_LOGPROBS}.",
            )


@dataclass(frozen=True, slots=True)
class End:
    """How a generation ended.

    Attributes:
        reason: Why; None if it failed.
        stop_id: The id that ended it, which is not among the tokens; None for other reasons.
        error: What went wrong, or None.
    """

    reason: Reason | None
    stop_id: int | None = None
    error: YoujuError | None = None


Event: TypeAlias = Token | End


class Generation:
    """A request under way: iterate over its tokens, in a thread or (`async for`) in a coroutine.

    Leaving the loop early does not end the request; `cancel` does.

    Attributes:
        end: How it ended; None while it runs. Set before the last token's iteration ends.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.end: End | None = None
        self.cancelled = False
        self._loop = loop
        self._events: Any = asyncio.Queue() if loop else queue.SimpleQueue()

    def cancel(self) -> None:
        """Ask for it to end; its place is free before the next step. It may be called always."""
        self.cancelled = True

    def deliver(self, event: Event) -> None:
        """Hand over what happened; called by the engine's thread, never blocks."""
        if self._loop is None:
            self._events.put(event)
            return
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the event loop is closed: nobody will read this any more
            self.cancelled = True

    def __iter__(self) -> Iterator[Token]:
        """Yield each token as soon as it exists.

        Raises:
            YoujuError: What made the request fail, after the tokens that came before.
        """
        while self.end is None:
            event = self._events.get()
            if isinstance(event, Token):
                yield event
            else:
                self._finish(event)

    async def __aiter__(self) -> AsyncIterator[Token]:
        """Yield each token as soon as it exists; raises as the plain iteration does."""
        while self.end is None:
            event = await self._events.get()
            if isinstance(event, Token):
                yield event
            else:
                self._finish(event)

    def _finish(self, end: End) -> None:
        self.end = end
        if end.error is not None:
            raise end.error
