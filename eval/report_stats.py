"""The figures behind a report: pure functions of rankings, shares and times."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Z = 1.96
"""Standard deviations on each side of a 95 % interval."""


def recall_curve(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Sequence[str]], depth: int
) -> tuple[float, ...]:
    """Return recall@k for k = 1 to depth: the mean over the judged queries.

    Args:
        qrels: Query id -> text id -> grade; each query has a relevant text.
        run: Query id -> text ids, best first.
        depth: The last k, >= 1.
    """
    gained = [0.0] * depth
    for query, grades in qrels.items():
        relevant = {text for text, grade in grades.items() if grade > 0}
        for place, text in enumerate(run.get(query, ())[:depth]):
            if text in relevant:
                gained[place] += 1 / len(relevant)
    curve, total = [], 0.0
    for gain in gained:
        total += gain
        curve.append(min(1.0, total / len(qrels)))
    return tuple(curve)


def interval(part: int, whole: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927), in [0, 1].

    Args:
        part: 0 to whole.
        whole: Size of the sample, >= 1.
    """
    share = part / whole
    middle = share + Z * Z / (2 * whole)
    spread = Z * math.sqrt(share * (1 - share) / whole + Z * Z / (4 * whole * whole))
    scale = 1 + Z * Z / whole
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed.

    Args:
        values: At least one.
        share: In [0, 1].
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def differences(mine: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return mine minus the other's score of each query, the largest first, noise made 0.

    Args:
        mine: Scores by query.
        others: Of the same queries in the same order.
    """
    rounded = (round(one - other, 9) + 0.0 for one, other in zip(mine, others, strict=True))
    return sorted(rounded, reverse=True)
