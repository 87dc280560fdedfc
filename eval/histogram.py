"""Counts times in bins that grow by a fixed ratio, so that memory does not grow with their number.

A percentile is exact to RESOLUTION: it is the upper end of the bin the time fell in, so it is never
told too short, and at most that share too long. The largest time is kept as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

RESOLUTION: Final = 0.005
"""Share by which a percentile can be too long."""

LOWEST_S: Final = 1e-5
"""Times up to here, 10 microseconds, are told as this."""

HIGHEST_S: Final = 1e5
"""Times from here on share a bin; a percentile among them is told as the largest time."""

_GROWTH: Final = math.log1p(RESOLUTION)
_BINS: Final = math.ceil(math.log(HIGHEST_S / LOWEST_S) / _GROWTH) + 2


@dataclass(frozen=True, slots=True)
class Spread:
    """How times were spread, seconds.

    Attributes:
        count: Number of times, >= 1.
        p50, p90, p95, p99: So many of 100 took no longer, to RESOLUTION.
        max: The longest, exactly.
    """

    count: int
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    def to_json(self) -> dict[str, Any]:
        """Return the times in milliseconds."""
        times = {name: getattr(self, name) for name in ("p50", "p90", "p95", "p99", "max")}
        return {"count": self.count, **{key: round(1000 * s, 3) for key, s in times.items()}}


class Histogram:
    """Times, counted: about 37 KiB however many there are."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self._count = 0
        self._max = 0.0

    def add(self, seconds: float) -> None:
        """Count one time; one below 0 counts as 0.

        Raises:
            ValueError: If it is not finite.
        """
        if not math.isfinite(seconds):
            raise ValueError(f"got {seconds} seconds, expected a finite number")
        place = 0
        if seconds > LOWEST_S:
            place = min(_BINS - 1, math.ceil(math.log(seconds / LOWEST_S) / _GROWTH))
        self._counts[place] += 1
        self._count += 1
        self._max = max(self._max, seconds)

    def __len__(self) -> int:
        return self._count

    def percentile(self, share: float) -> float:
        """Return the time, seconds, that so many took at most (nearest rank).

        Args:
            share: In (0, 1].

        Raises:
            ValueError: If nothing was counted, or the share is out of range.
        """
        if not self._count or not 0 < share <= 1:
            raise ValueError(f"got share {share} of {self._count} times")
        rank = max(1, math.ceil(share * self._count - 1e-9))
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        if place == _BINS - 1:
            return self._max
        return min(self._max, LOWEST_S * math.exp(place * _GROWTH))

    def spread(self) -> Spread | None:
        """Return the usual percentiles; None if nothing was counted."""
        if not self._count:
            return None
        p50, p90, p95, p99 = (self.percentile(share) for share in (0.5, 0.9, 0.95, 0.99))
        return Spread(self._count, p50, p90, p95, p99, self._max)
