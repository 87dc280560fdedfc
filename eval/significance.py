"""Tells a difference between two systems from chance: tests and intervals over paired differences.

Pure: numbers in, numbers out. A difference is the second system's value of a query less the first
system's value of the same query. scipy does the drawing; what is ours is how ties are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

EXACT_MOST: Final = 14
"""With so many differences that are not zero, or fewer, all sign changes are tried: 16,384."""

RESAMPLES: Final = 9_999
"""Sign changes drawn where they are too many to try all, and bootstrap samples."""

TIE: Final = 1e-9
"""Differences up to here are ties, and sums that differ by this share of all are equal."""

Numbers = Sequence[float] | NDArray[np.float64]

_AT_ONCE = 4_000_000  # values in memory while resampling


@dataclass(frozen=True, slots=True)
class PairedTest:
    """What a paired randomisation test says.

    Attributes:
        p_value: In (0, 1]: how often chance alone makes a difference as great, either way.
        exact: Whether every sign change was tried, rather than some drawn.
        resamples: How many were tried or drawn.
    """

    p_value: float
    exact: bool
    resamples: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval, low <= high, in the unit of the differences."""

    low: float
    high: float


def randomization_test(
    differences: Numbers, *, seed: int = 0, resamples: int = RESAMPLES
) -> PairedTest:
    """Test, two-sided, whether paired differences are more than chance (Fisher's sign flips).

    If the systems are equal, each difference could as well have had the other sign. The p-value is
    the share of sign changes whose sum is at least as far from 0 as the one seen. Where not all
    are tried it is (r + 1) / (n + 1) for r such among n drawn (Phipson and Smyth 2010,
    doi:10.2202/1544-6115.1585), so that it is never 0.

    Args:
        differences: One a query, finite, at least one. Zeros change nothing.
        seed: Of the drawing.
        resamples: Sign changes to draw, >= 1.

    Raises:
        ValueError: If there are no differences, or one is not finite.
    """
    values = _checked(differences)
    values = values[np.abs(values) > TIE]
    exact = len(values) <= EXACT_MOST
    if len(values) < 2:  # both signs are as far from 0
        return PairedTest(1.0, exact=True, resamples=2 ** len(values))
    from scipy import stats

    total = float(np.abs(values).sum())

    def far(signed: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        # Rounded: sums that are equal but for the order of adding must count as equal.
        rounded: NDArray[np.float64] = np.round(np.abs(signed.sum(axis=axis)) / total / TIE)
        return rounded

    found = stats.permutation_test(
        (values,),
        far,
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf if exact else resamples,
        batch=max(1, _AT_ONCE // len(values)),
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return PairedTest(
        min(1.0, float(found.pvalue)),
        exact=exact,
        resamples=2 ** len(values) if exact else resamples,
    )


def bootstrap_interval(
    differences: Numbers, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return the 95 % interval of the mean difference by the BCa bootstrap over queries.

    BCa is bias-corrected and accelerated (Efron 1987, doi:10.1080/01621459.1987.10478410).

    Args:
        differences: One a query, finite, at least two. All equal: the interval is that point.
        seed: Of the drawing.
        resamples: Bootstrap samples, >= 1.

    Raises:
        ValueError: If there are fewer than two differences, or one is not finite.
    """
    values = _checked(differences)
    if len(values) < 2:
        raise ValueError("got one difference, expected at least two")
    mean = float(values.mean())
    if float(np.ptp(values)) <= TIE:
        return Interval(mean, mean)
    from scipy import stats

    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _AT_ONCE // len(values)),
        confidence_level=0.95,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def effect_size(differences: Numbers) -> float | None:
    """Return the mean difference in standard deviations of the differences (Cohen's d_z).

    0 where there is no difference at all; None where all differences are equal and not 0, or there
    is only one.

    Raises:
        ValueError: If there are no differences, or one is not finite.
    """
    values = _checked(differences)
    mean = float(values.mean())
    if float(np.ptp(values)) <= TIE:
        return 0.0 if abs(mean) <= TIE else None
    return mean / float(values.std(ddof=1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the order given.

    The i-th smallest of m is multiplied by m - i + 1; none falls below one before it, none is
    above 1. Calling those at most 0.05 real is wrong about any of them in at most 5 % of cases.

    Raises:
        ValueError: If one is not in [0, 1].
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"got p-values {list(p_values)!r:.80}, expected numbers in [0, 1]")
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = least
    return adjusted


def _checked(differences: Numbers) -> NDArray[Any]:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError("got no differences, expected at least one")
    if not np.isfinite(values).all():
        raise ValueError("a difference is not finite, expected numbers")
    return values
