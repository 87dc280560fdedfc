"""Compares systems query by query: is one better than the other, by how much, and where.

Every pair of systems is compared on every metric; where that is more than one comparison, the
p-values are corrected for their number. Reading files is eval.scores, the tests eval.significance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from eval.scores import System, check_same_queries
from eval.significance import (
    TIE,
    Interval,
    PairedTest,
    bootstrap_interval,
    effect_size,
    holm,
    randomization_test,
)
from rag.errors import EvalDataError


@dataclass(frozen=True, slots=True)
class Example:
    """A query on which two systems differ: the value of each."""

    query: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """The second's value less the first's."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems on one metric.

    Attributes:
        metric: Its name; higher counts as better.
        first, second: Names of the systems.
        queries: How many both were asked.
        mean_first, mean_second: Means over them.
        interval: 95 %, BCa bootstrap, of the mean difference, second less first.
        effect: Mean difference in standard deviations of the differences; None: it has none.
        test: The paired randomisation test, not corrected.
        p_holm: The p-value corrected for the number of comparisons made together.
        wins, losses, ties: Queries on which the second is better, worse, equal.
        gains, drops: Examples of the greatest differences each way, greatest first.
    """

    metric: str
    first: str
    second: str
    queries: int
    mean_first: float
    mean_second: float
    interval: Interval
    effect: float | None
    test: PairedTest
    p_holm: float
    wins: int
    losses: int
    ties: int
    gains: tuple[Example, ...]
    drops: tuple[Example, ...]

    @property
    def difference(self) -> float:
        """Mean of the second less mean of the first."""
        return self.mean_second - self.mean_first

    def to_json(self) -> dict[str, Any]:
        """Return one comparison of `youju eval compare --json`."""
        return {
            "metric": self.metric,
            "first": self.first,
            "second": self.second,
            "queries": self.queries,
            "mean_first": self.mean_first,
            "mean_second": self.mean_second,
            "difference": self.difference,
            "low": self.interval.low,
            "high": self.interval.high,
            "interval": "BCa bootstrap, 95 %",
            "effect": self.effect,
            "p": self.test.p_value,
            "p_holm": self.p_holm,
            "exact": self.test.exact,
            "resamples": self.test.resamples,
            "wins": self.wins,
            "losses": self.losses,
            "ties": self.ties,
            "gains": [_example_json(example) for example in self.gains],
            "drops": [_example_json(example) for example in self.drops],
        }


def compare(
    systems: Sequence[System], metrics: Sequence[str], *, seed: int = 0, examples: int = 3
) -> list[Comparison]:
    """Compare every two systems on every metric.

    Args:
        systems: At least two, over the same queries.
        metrics: Different names; each system has them all.
        seed: Of the resampling; the same for every comparison.
        examples: Most queries to show each way, >= 0.

    Returns:
        By metric, then by pair in the order given.

    Raises:
        EvalDataError: If the systems were not asked the same queries, or fewer than two.
        ValueError: If there are fewer than two systems, no metric, or one twice.
    """
    if len(systems) < 2 or not metrics or len(set(metrics)) < len(metrics):
        raise ValueError("expected at least two systems and one metric, each metric once")
    found = []
    for metric in metrics:
        check_same_queries(systems, metric)
        if len(systems[0].scores[metric]) < 2:
            raise EvalDataError(
                f"{systems[0].name} holds fewer than two queries.", do="Expected at least two."
            )
        found += [(metric, first, second) for first, second in combinations(systems, 2)]
    tests = [
        randomization_test([example.difference for example in _pairs(*one)], seed=seed)
        for one in found
    ]
    adjusted = holm([test.p_value for test in tests])
    return [
        _compared(*one, test, p_holm, seed, examples)
        for one, test, p_holm in zip(found, tests, adjusted, strict=True)
    ]


def _compared(
    metric: str, first: System, second: System, test: PairedTest, p_holm: float, seed: int,
    examples: int,
) -> Comparison:  # fmt: skip
    pairs = _pairs(metric, first, second)
    differences = [pair.difference for pair in pairs]
    gains = [pair for pair in pairs if pair.difference > TIE]
    drops = [pair for pair in pairs if pair.difference < -TIE]
    return Comparison(
        metric=metric,
        first=first.name,
        second=second.name,
        queries=len(pairs),
        mean_first=sum(pair.first for pair in pairs) / len(pairs),
        mean_second=sum(pair.second for pair in pairs) / len(pairs),
        interval=bootstrap_interval(differences, seed=seed),
        effect=effect_size(differences),
        test=test,
        p_holm=p_holm,
        wins=len(gains),
        losses=len(drops),
        ties=len(pairs) - len(gains) - len(drops),
        gains=_greatest(gains, examples),
        drops=_greatest(drops, examples),
    )


def _pairs(metric: str, first: System, second: System) -> list[Example]:
    """Return both values of every query, in an order that does not depend on the files."""
    ones, twos = first.scores[metric], second.scores[metric]
    return [Example(query, ones[query], twos[query]) for query in sorted(ones)]


def _greatest(pairs: Sequence[Example], most: int) -> tuple[Example, ...]:
    return tuple(sorted(pairs, key=lambda pair: (-abs(pair.difference), pair.query))[:most])


def _example_json(example: Example) -> dict[str, Any]:
    return {
        "query": example.query,
        "first": example.first,
        "second": example.second,
        "difference": example.difference,
    }
