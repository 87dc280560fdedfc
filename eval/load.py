"""Loads a server openly and measures how long those who ask have to wait.

Requests are due at times drawn beforehand, whether or not earlier ones were answered, and each is
timed from when it was due: waiting for a busy server, for a free connection and for this program
itself all count. A client that asks again only when it has its answer would skip what it should
have asked while the server stood still, and tell of one slow answer where hundreds waited
("coordinated omission"). How a request is sent is not this module's business: it is passed in.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from eval.histogram import RESOLUTION, Histogram, Spread

TURNED_AWAY: Final = 429
LATE_S: Final = 0.01
"""If the generator's own lateness exceeds this in more than 1 % of cases, it did not keep up."""

WAITING_MOST: Final = 50_000
"""Requests that wait for a free connection at once; those beyond are counted and not sent."""

TIMEOUT = "timeout"
NOT_SENT = "not_sent"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request.

    Attributes:
        status: HTTP status; 0 if there was none.
        error: A word for what went wrong; "" if it was answered, or turned away with 429.
        tokens: Tokens of a streamed answer as the server counts them; None: it told none.
        characters: Characters of a streamed answer.
        writing_s: Seconds from the first text of a streamed answer to the last.
    """

    status: int
    error: str = ""
    tokens: int | None = None
    characters: int = 0
    writing_s: float = 0.0


Ask = Callable[[str, Callable[[], None]], Awaitable[Reply]]
"""Sends a query; calls the second argument when the first text of a streamed answer is there."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a load may take: requests under way at once, and seconds that one may take."""

    connections: int = 256
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load measured. Every arrival is in exactly one of the first five counts.

    Attributes:
        answered: Answered in full.
        turned_away: Refused with 429: in no time below.
        errors: Failed otherwise, by a word for how, as "status 500".
        unfinished: Stopped with the load.
        arrivals: All of them.
        asked_per_s: The rate asked for.
        achieved_per_s: Answers within the time of the load, a second.
        seconds: How long requests arrived; shorter than asked for if it was stopped.
        statuses: HTTP statuses that came, with their number.
        latency: From when a request was due to its whole answer. One given up after the timeout
            counts with the time it waited; other failures do not count.
        first_text: From when a request was due to the first text of its streamed answer.
        per_unit: Of each streamed answer: seconds a token after the first text.
        unit: "tokens" or, where the server counted none in some answer, "characters".
        units: Number of them in all answers.
        lateness: How late the generator itself was.
        queued: Arrivals that found all connections in use.
        interrupted: Whether it was stopped.
    """

    answered: int
    turned_away: int
    errors: dict[str, int]
    unfinished: int
    arrivals: int
    asked_per_s: float
    achieved_per_s: float
    seconds: float
    statuses: dict[int, int]
    latency: Spread | None
    first_text: Spread | None
    per_unit: Spread | None
    unit: str
    units: int
    lateness: Spread | None
    queued: int
    interrupted: bool

    @property
    def kept_up(self) -> bool:
        """Whether the generator sent what it should, when it should."""
        late = self.lateness is not None and self.lateness.p99 > LATE_S
        return not late and NOT_SENT not in self.errors

    @property
    def units_per_s(self) -> float:
        """Tokens (or characters) of all answers, by the seconds of the load."""
        return self.units / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return what `youju eval load --json` prints; its keys are part of the interface."""
        return {
            "arrivals": self.arrivals,
            "answered": self.answered,
            "turned_away": self.turned_away,
            "errors": self.errors,
            "unfinished": self.unfinished,
            "asked_per_s": round(self.asked_per_s, 4),
            "achieved_per_s": round(self.achieved_per_s, 4),
            "seconds": round(self.seconds, 3),
            "statuses": {str(status): number for status, number in self.statuses.items()},
            "latency_ms": _json(self.latency),
            "first_text_ms": _json(self.first_text),
            "ms_per_unit": _json(self.per_unit),
            "unit": self.unit,
            "units": self.units,
            "units_per_s": round(self.units_per_s, 3),
            "lateness_ms": _json(self.lateness),
            "kept_up": self.kept_up,
            "queued": self.queued,
            "interrupted": self.interrupted,
            "resolution": RESOLUTION,
        }


def _json(spread: Spread | None) -> dict[str, Any] | None:
    return spread.to_json() if spread else None


class _Tally:
    """Adds up; its size does not depend on how much there is."""

    def __init__(self) -> None:
        self.arrivals = self.answered = self.in_time = self.turned_away = self.queued = 0
        self.tokens = self.characters = 0
        self.counted = True
        self.errors: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.latency, self.first, self.lateness = Histogram(), Histogram(), Histogram()
        self.per_token, self.per_character = Histogram(), Histogram()

    def replied(self, reply: Reply, waited: float, *, in_time: bool) -> None:
        if reply.status:
            self.statuses[reply.status] += 1
        if reply.status == TURNED_AWAY:
            self.turned_away += 1
        elif reply.error:
            self.errors[reply.error] += 1
        else:
            self.answered += 1
            self.in_time += in_time
            self.latency.add(waited)
            self._count_text(reply)

    def _count_text(self, reply: Reply) -> None:
        if not reply.characters:
            return
        self.characters += reply.characters
        if reply.characters > 1:
            self.per_character.add(reply.writing_s / (reply.characters - 1))
        if reply.tokens is None:
            self.counted = False
            return
        self.tokens += reply.tokens
        if reply.tokens > 1:
            self.per_token.add(reply.writing_s / (reply.tokens - 1))

    def gave_up(self, waited: float, *, had_text: bool, streamed: bool) -> None:
        self.errors[TIMEOUT] += 1
        self.latency.add(waited)
        if streamed and not had_text:
            self.first.add(waited)


async def run_load(
    ask: Ask,
    arrivals: Iterable[tuple[float, str]],
    *,
    rate: float,
    seconds: float,
    streamed: bool = False,
    limits: Limits | None = None,
    stop: asyncio.Event | None = None,
    progress: Callable[[float], None] = lambda _seconds: None,
) -> LoadReport:
    """Send each query when it is due, then wait for the answers that are under way.

    It ends at most `limits.timeout_s` after the last arrival.

    Args:
        ask: Sends one query.
        arrivals: Seconds from the start, rising, and the query; read as they are due.
        rate: Arrivals a second, for the report.
        seconds: How long requests arrive.
        streamed: Whether answers are streams, whose first text is timed.
        limits: None: the defaults.
        stop: When set, nothing more is sent and what is under way is dropped.
        progress: Called at each arrival with the seconds gone by.
    """
    limits, stop = limits or Limits(), stop or asyncio.Event()
    clock = asyncio.get_running_loop().time
    waiting: asyncio.Queue[tuple[float, str]] = asyncio.Queue(WAITING_MOST)
    tally = _Tally()
    busy = 0
    begin = clock()

    async def send_all() -> None:
        for at, query in arrivals:
            due = begin + at
            await asyncio.sleep(max(0.0, due - clock()))  # also lets the others work when late
            tally.arrivals += 1
            tally.lateness.add(clock() - due)
            tally.queued += busy + waiting.qsize() >= limits.connections
            try:
                waiting.put_nowait((due, query))
            except asyncio.QueueFull:
                tally.errors[NOT_SENT] += 1
            progress(at)
        await asyncio.sleep(max(0.0, begin + seconds - clock()))
        await waiting.join()

    async def work() -> None:
        nonlocal busy
        while True:
            due, query = await waiting.get()
            busy += 1
            await _one(ask, query, due, begin + seconds, tally, limits.timeout_s, streamed)
            busy -= 1
            waiting.task_done()

    workers = [asyncio.create_task(work()) for _ in range(limits.connections)]
    sending, stopped = asyncio.create_task(send_all()), asyncio.create_task(stop.wait())
    tasks: list[asyncio.Task[Any]] = [sending, stopped, *workers]
    try:
        # A worker ends only by a fault of ours, which shall be seen.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        interrupted = not sending.done()
        lasted = min(seconds, clock() - begin)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return _report(tally, rate, lasted, interrupted=interrupted)


async def _one(
    ask: Ask, query: str, due: float, end: float, tally: _Tally, timeout_s: float, streamed: bool
) -> None:
    clock = asyncio.get_running_loop().time
    had_text = False

    def text_came() -> None:
        nonlocal had_text
        if not had_text:
            tally.first.add(clock() - due)
        had_text = True

    with suppress(TimeoutError):
        if clock() >= due + timeout_s:  # it waited that long for a connection
            raise TimeoutError
        async with asyncio.timeout_at(due + timeout_s):
            reply = await ask(query, text_came)
            tally.replied(reply, clock() - due, in_time=clock() <= end)
            return
    tally.gave_up(clock() - due, had_text=had_text, streamed=streamed)


def _report(tally: _Tally, rate: float, seconds: float, *, interrupted: bool) -> LoadReport:
    ended = tally.answered + tally.turned_away + tally.errors.total()
    return LoadReport(
        answered=tally.answered,
        turned_away=tally.turned_away,
        errors=dict(tally.errors.most_common()),
        unfinished=tally.arrivals - ended,
        arrivals=tally.arrivals,
        asked_per_s=rate,
        achieved_per_s=tally.in_time / seconds if seconds else 0.0,
        seconds=seconds,
        statuses=dict(sorted(tally.statuses.items())),
        latency=tally.latency.spread(),
        first_text=tally.first.spread(),
        per_unit=(tally.per_token if tally.counted else tally.per_character).spread(),
        unit="tokens" if tally.counted else "characters",
        units=tally.tokens if tally.counted else tally.characters,
        lateness=tally.lateness.spread(),
        queued=tally.queued,
        interrupted=interrupted,
    )
