"""The open load: arrivals, histogram, and that a server's standstill is not left out."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import load as load_module
from eval.arrivals import poisson, rate_of
from eval.histogram import HIGHEST_S, LOWEST_S, RESOLUTION, Histogram
from eval.load import Ask, Limits, LoadReport, Reply, run_load


def test_gaps_are_exponential() -> None:
    """Kolmogorov-Smirnov at 1 %, and the number of arrivals as its mean and spread say."""
    times = list(poisson(50, 100, seed=4))
    gaps = np.sort(np.diff(times, prepend=0.0))
    expected = 1 - np.exp(-50 * gaps)
    steps = np.arange(len(gaps) + 1) / len(gaps)

    distance = max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())

    assert distance < 1.63 / math.sqrt(len(gaps))
    assert len(times) == pytest.approx(5000, abs=4 * math.sqrt(5000))
    assert 0 < times[0] < times[-1] < 100


def test_gaps_do_not_depend_on_each_other() -> None:
    gaps = np.diff(list(poisson(50, 100, seed=4)))

    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 4 / math.sqrt(len(gaps))


def test_a_seed_repeats() -> None:
    assert list(poisson(5, 20, seed=1)) == list(poisson(5, 20, seed=1))
    assert list(poisson(5, 20, seed=1)) != list(poisson(5, 20, seed=2))
    assert rate_of(50, 10) == 5


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_no_rate(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        next(poisson(rate, 1))
    with pytest.raises(ValueError, match="users"):
        rate_of(1, rate)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(LOWEST_S, HIGHEST_S / 2), min_size=1, max_size=60),
    st.floats(0.001, 1),
)
def test_percentiles_are_never_too_short_and_hardly_too_long(
    times: list[float], share: float
) -> None:
    histogram = Histogram()
    for one in times:
        histogram.add(one)
    true = sorted(times)[max(1, math.ceil(share * len(times) - 1e-9)) - 1]

    found = histogram.percentile(share)

    assert true * (1 - 1e-9) <= found <= true * (1 + RESOLUTION) * (1 + 1e-9)
    assert found <= max(times)
    assert histogram.percentile(1) == max(times)


def test_the_ends_of_the_histogram() -> None:
    histogram = Histogram()
    assert histogram.spread() is None
    for one in (-1.0, 0.0, 1e-9, 10 * HIGHEST_S):
        histogram.add(one)

    assert histogram.percentile(0.5) == LOWEST_S
    assert histogram.percentile(1) == 10 * HIGHEST_S
    assert len(histogram) == 4
    with pytest.raises(ValueError, match="finite"):
        histogram.add(float("nan"))
    with pytest.raises(ValueError, match="share"):
        histogram.percentile(0)


def evenly(rate: float, seconds: float) -> Iterator[tuple[float, str]]:
    for number in range(int(rate * seconds)):
        yield number / rate, f"query {number}"


async def loaded(ask: Ask, rate: float, seconds: float, **options: object) -> LoadReport:
    return await run_load(
        ask, evenly(rate, seconds), rate=rate, seconds=seconds, **options  # type: ignore[arg-type]
    )  # fmt: skip


def a_server(work_s: float, stall: tuple[float, float] = (0, 0)) -> Ask:
    """Answers after `work_s`, but nothing at all between two times from its first request."""
    begun: list[float] = []

    async def ask(_query: str, _text_came: Callable[[], None]) -> Reply:
        now = time.monotonic()
        begun.append(now)
        since = now - begun[0]
        await asyncio.sleep(work_s + (stall[1] - since if stall[0] <= since < stall[1] else 0))
        return Reply(200)

    return ask


async def test_a_standstill_is_seen_by_all_who_arrived_in_it() -> None:
    """Half of the requests arrive in the standstill of 0.5 s and wait for its end."""
    found = await loaded(a_server(0.001, (0.25, 0.75)), rate=200, seconds=1)

    assert found.answered == found.arrivals == 200
    assert found.latency is not None
    assert found.latency.p50 < 0.3
    assert 0.35 < found.latency.p90 < 1  # of 100, 20 wait more than 0.4 s
    assert 0.45 < found.latency.p99 < 1


async def test_waiting_for_a_connection_counts() -> None:
    """One connection, answers in 50 ms, asked 40 times a second: every other one too many."""
    found = await loaded(a_server(0.05), rate=40, seconds=0.25, limits=Limits(connections=1))

    assert found.answered == 10
    assert found.latency is not None
    assert found.latency.max > 0.25  # the last is due at 0.225 s and done at 0.5 s
    assert found.queued > 6
    assert found.achieved_per_s < 25


async def test_who_is_turned_away_or_failed_is_not_in_the_latency() -> None:
    replies = iter([Reply(429), Reply(500, "status 500"), Reply(0, "connect")] * 4 + [Reply(200)])

    async def ask(_query: str, _text_came: Callable[[], None]) -> Reply:
        reply = next(replies)
        await asyncio.sleep(0.4 if reply.status == 429 else 0.001)
        return reply

    found = await loaded(ask, rate=130, seconds=0.1)

    assert (found.answered, found.turned_away, found.unfinished) == (1, 4, 0)
    assert found.errors == {"status 500": 4, "connect": 4}
    assert found.statuses == {200: 1, 429: 4, 500: 4}
    assert found.latency is not None
    assert found.latency.count == 1
    assert found.latency.max < 0.4


async def test_who_is_given_up_counts_with_the_time_waited() -> None:
    limits = Limits(connections=2, timeout_s=0.2)
    begin = time.monotonic()

    found = await loaded(a_server(60), rate=50, seconds=0.2, streamed=True, limits=limits)

    assert time.monotonic() - begin < 10
    assert found.errors == {"timeout": 10}
    assert found.answered == 0
    assert found.latency is not None
    assert found.latency.count == 10
    assert found.latency.p50 >= 0.2
    assert found.first_text == found.latency


async def test_what_is_stopped_tells_what_it_measured() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, stop.set)
    quick, slow = a_server(0.001), a_server(60)

    async def ask(query: str, text_came: Callable[[], None]) -> Reply:
        return await (quick if int(query.split()[1]) % 2 else slow)(query, text_came)

    found = await loaded(ask, rate=100, seconds=1000, stop=stop)

    assert found.interrupted
    assert 0.25 < found.seconds < 10
    assert 0 < found.answered <= (found.arrivals + 1) / 2
    assert found.unfinished == found.arrivals - found.answered
    assert found.latency is not None
    assert found.latency.max < 10
    assert len(asyncio.all_tasks()) == 1


async def test_a_generator_that_is_late_says_so() -> None:
    async def ask(_query: str, _text_came: Callable[[], None]) -> Reply:
        time.sleep(0.02)  # the program itself is busy
        return Reply(200)

    slow = await loaded(ask, rate=100, seconds=0.3)
    assert not slow.kept_up
    assert slow.latency is not None
    assert slow.latency.max > 0.1  # and the lateness is in the latency


async def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "WAITING_MOST", 3)

    found = await loaded(
        a_server(0.3), rate=100, seconds=0.1, limits=Limits(connections=1, timeout_s=0.5)
    )

    assert found.errors["not_sent"] == 6
    assert found.answered + found.errors["not_sent"] + found.errors["timeout"] == 10
    assert not found.kept_up


async def test_a_fault_of_ours_is_not_hidden() -> None:
    async def ask(_query: str, _text_came: Callable[[], None]) -> Reply:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        await loaded(ask, rate=100, seconds=1)


async def test_streams_are_timed_to_their_first_text_and_by_token() -> None:
    async def ask(_query: str, text_came: Callable[[], None]) -> Reply:
        await asyncio.sleep(0.05)
        text_came()
        await asyncio.sleep(0.1)
        text_came()
        return Reply(200, tokens=11, characters=21, writing_s=0.1)

    found = await loaded(ask, rate=20, seconds=0.25, streamed=True)

    assert found.first_text is not None
    assert found.latency is not None
    assert found.per_unit is not None
    assert 0.05 <= found.first_text.p50 < found.latency.p50 - 0.09
    assert found.latency.p50 >= 0.15
    assert found.per_unit.p50 == pytest.approx(0.01, rel=RESOLUTION)
    assert (found.unit, found.units) == ("tokens", 55)
    assert found.units_per_s == pytest.approx(220)


async def test_where_one_answer_has_no_token_count_characters_are_told() -> None:
    replies = iter([Reply(200, tokens=5, characters=11, writing_s=1.0), Reply(200, characters=11)])

    async def ask(_query: str, text_came: Callable[[], None]) -> Reply:
        return next(replies)

    found = await loaded(ask, rate=20, seconds=0.1, streamed=True)

    assert (found.unit, found.units) == ("characters", 22)
    assert found.per_unit is not None
    assert found.per_unit.max == pytest.approx(0.1)


@pytest.mark.parametrize("seed", range(3))
async def test_every_arrival_is_counted_once(seed: int) -> None:
    chance = Random(seed)

    async def ask(_query: str, _text_came: Callable[[], None]) -> Reply:
        await asyncio.sleep(chance.choice([0, 0.01, 0.2]))
        return chance.choice([Reply(200), Reply(429), Reply(503, "status 503"), Reply(0, "broken")])

    arrivals = [(at, "q") for at in poisson(200, 0.2, seed)]
    limits = Limits(connections=4, timeout_s=0.1)

    found = await run_load(ask, arrivals, rate=200, seconds=0.2, limits=limits)

    assert found.arrivals == len(arrivals)
    ended = found.answered + found.turned_away + sum(found.errors.values())
    assert ended == found.arrivals
    assert found.lateness is not None
    assert found.lateness.count == found.arrivals
