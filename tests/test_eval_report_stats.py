"""The figures behind a report: worked by hand, and against the reference where there is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics import evaluate_run
from eval.report_stats import (
    differences,
    interval,
    percentile,
    recall_curve,
)

TEXTS = [f"t{number}" for number in range(14)]
RANKINGS = st.permutations(TEXTS).flatmap(
    lambda order: st.integers(0, len(order)).map(lambda most: order[:most])
)
GRADES = st.dictionaries(st.sampled_from(TEXTS), st.integers(0, 3), min_size=1).filter(
    lambda grades: any(grades.values())
)


@given(st.lists(st.tuples(GRADES, RANKINGS), min_size=1, max_size=4))
def test_the_curve_is_that_of_the_reference(
    judged: list[tuple[dict[str, int], list[str]]],
) -> None:
    qrels = {f"q{number}": grades for number, (grades, _) in enumerate(judged)}
    run = {f"q{number}": ranking for number, (_, ranking) in enumerate(judged)}

    means = evaluate_run(qrels, run)
    curve = recall_curve(qrels, run, 100)

    for depth in (5, 10, 100):
        assert curve[depth - 1] == pytest.approx(means[f"recall@{depth}"])
    assert list(curve) == sorted(curve)


@given(st.integers(1, 500).flatmap(lambda whole: st.tuples(st.integers(0, whole), st.just(whole))))
def test_an_interval_holds_its_share(sample: tuple[int, int]) -> None:
    low, high = interval(*sample)

    assert 0 <= low <= sample[0] / sample[1] + 1e-12
    assert sample[0] / sample[1] - 1e-12 <= high <= 1


def test_an_interval_by_hand() -> None:
    assert interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.51, 3), (1.0, 4), (0.0, 1)])
def test_percentiles_are_values_that_occurred(share: float, expected: float) -> None:
    assert percentile([4, 1, 3, 2], share) == expected


def test_differences_are_sorted_and_free_of_noise() -> None:
    assert differences([0.5, 0.1 + 0.2, 0.0], [0.0, 0.3, 1.0]) == [0.5, 0.0, -1.0]
