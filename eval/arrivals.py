"""When requests arrive: as a Poisson process, as those of many people who know not of each other.

Nothing here depends on how the server does, which is what makes a load open: who is kept waiting
keeps nobody else from asking.
"""

from __future__ import annotations

import random
from collections.abc import Iterator


def poisson(rate: float, seconds: float, seed: int = 0) -> Iterator[float]:
    """Yield the times, in seconds from the start, at which requests arrive, rising.

    The time from each to the next is exponential with mean 1 / rate, and so is the first time.

    Args:
        rate: Arrivals a second on average, > 0.
        seconds: How long; none arrives later. Their number is chance: about rate * seconds.
        seed: The same gives the same times.

    Raises:
        ValueError: If the rate is not above 0.
    """
    if not rate > 0:
        raise ValueError(f"got rate {rate}, expected a number above 0")
    chance = random.Random(seed)
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)


def rate_of(users: int, think: float) -> float:
    """Return the arrivals a second of users who each ask once in `think` seconds on average.

    Many independent users together are a Poisson process, whatever each of them does; so N users
    are arrivals at the rate N / think, also while some of them wait for an answer.

    Raises:
        ValueError: If users < 1 or think is not above 0.
    """
    if users < 1 or not think > 0:
        raise ValueError(f"got {users} users, {think} s, expected at least 1 and more than 0")
    return users / think
