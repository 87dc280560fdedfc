"""Puts a load on a server: the parts of a load together, until its end or Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from eval.arrivals import poisson
from eval.load import Limits, LoadReport, run_load
from eval.load_client import asker, connected, find_store
from rag.terminal import Advance, Progress

KEY_VARIABLE = "OPENAI_API_KEY"


def measure(
    url: str, store: str, kind: Literal["search", "answer"], queries: Sequence[str], limits: Limits,
    *, rate: float, seconds: float, seed: int, advance: Advance,
) -> tuple[str, LoadReport]:  # fmt: skip
    """Return the id of the store asked and what was measured; Ctrl-C or SIGTERM ends it early.

    Args:
        url: The server.
        store: Name or id of a store there.
        kind: What is asked.
        queries: Drawn from at random.
        limits: Of the requests.
        rate: Requests a second on average, > 0.
        seconds: How long requests arrive, > 0.
        seed: Of arrivals and queries.
        advance: Told the seconds gone.

    Raises:
        YoujuError: If the server cannot be reached or has no such store.
    """
    return asyncio.run(
        _measure(
            url, store, kind, queries, limits,
            rate=rate, seconds=seconds, seed=seed, advance=advance,
        )
    )  # fmt: skip


async def _measure(
    url: str, store: str, kind: Literal["search", "answer"], queries: Sequence[str], limits: Limits,
    *, rate: float, seconds: float, seed: int, advance: Advance,
) -> tuple[str, LoadReport]:  # fmt: skip
    def arrivals() -> Iterator[tuple[float, str]]:
        chance = random.Random(f"queries {seed}")
        for at in poisson(rate, seconds, seed):
            yield at, chance.choice(queries)

    stop = asyncio.Event()
    async with connected(url, os.environ.get(KEY_VARIABLE, "")) as connections:
        store_id = await find_store(connections, store)
        with _stopped_by_signals(stop):
            report = await run_load(
                asker(connections, kind, store_id),
                arrivals(),
                rate=rate,
                seconds=seconds,
                streamed=kind == "answer",
                limits=limits,
                stop=stop,
                progress=lambda at: advance(Progress(int(at), int(seconds))),
            )
    return store_id, report


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` on the first Ctrl-C or SIGTERM; a second one ends the program as ever."""
    loop = asyncio.get_running_loop()

    def give_back() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def end() -> None:
        stop.set()
        give_back()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        give_back()
