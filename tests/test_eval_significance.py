"""Significance: against enumeration and hand-worked figures; a test that cries wolf too often."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eval.significance import (
    EXACT_MOST,
    bootstrap_interval,
    effect_size,
    holm,
    randomization_test,
)

# Tenths and their sums: many sums are equal, but not in binary fractions.
TENTHS = st.integers(-10, 10).map(lambda number: number / 10)


def enumerated(differences: list[float]) -> float:
    """The definition, in whole numbers, so that equal sums are equal."""
    tenths = [round(10 * value) for value in differences]
    seen = abs(sum(tenths))
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, tenths, strict=True)))
        for signs in product((1, -1), repeat=len(tenths))
    ]
    return sum(one >= seen for one in sums) / len(sums)


@settings(max_examples=40, deadline=None)
@given(st.lists(TENTHS, min_size=1, max_size=8))
@example([0.3, 0.7, -0.6, -0.7, -0.1, 0.4])  # sums to 0, but not in binary fractions
def test_few_queries_are_enumerated(differences: list[float]) -> None:
    found = randomization_test(differences)

    assert found.exact
    assert found.p_value == pytest.approx(enumerated(differences))


def test_worked_by_hand() -> None:
    """Of 16 sign changes of 1, 2, 3, 4 those with a sum of 10 or -10: two."""
    assert randomization_test([0.1, 0.2, 0.3, 0.4]).p_value == pytest.approx(2 / 16)
    # 1 + 2 - 3 = 0: every change is at least as far from 0.
    assert randomization_test([0.1, 0.2, -0.3]).p_value == 1.0


@settings(max_examples=20, deadline=None)
@given(st.lists(TENTHS, min_size=1, max_size=40), st.integers(0, 5))
def test_the_order_of_the_systems_does_not_matter(differences: list[float], seed: int) -> None:
    turned = [-value for value in differences]

    one, two = (
        randomization_test(values, seed=seed, resamples=199) for values in (differences, turned)
    )

    assert one == two
    if len(differences) > 1:
        there = bootstrap_interval(differences, seed=seed, resamples=199)
        back = bootstrap_interval(turned, seed=seed, resamples=199)
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.lists(TENTHS, min_size=1, max_size=30), st.integers(1, 500))
def test_queries_without_a_difference_change_no_p_value(values: list[float], zeros: int) -> None:
    assert randomization_test(values, resamples=99) == randomization_test(
        [*([0.0] * zeros), *values], resamples=99
    )


def test_identical_systems() -> None:
    assert randomization_test([0.0] * 50).p_value == 1.0
    assert bootstrap_interval([0.0] * 50).low == bootstrap_interval([0.0] * 50).high == 0.0
    assert effect_size([0.0] * 50) == 0.0


def test_many_queries_are_drawn_and_p_is_never_0() -> None:
    found = randomization_test([0.1] * (EXACT_MOST + 26), resamples=999)

    assert not found.exact
    assert found.p_value == pytest.approx(1 / 1000)


def test_drawn_and_enumerated_agree() -> None:
    rng = np.random.default_rng(1)
    differences = list(rng.normal(0.3, 1, EXACT_MOST))
    exact = randomization_test(differences).p_value

    # One more that hardly counts makes it draw.
    drawn = randomization_test([*differences, 1e-7], seed=2)

    assert not drawn.exact
    assert drawn.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 9999))


def test_a_seed_repeats_and_another_differs() -> None:
    differences = list(np.random.default_rng(3).normal(0.2, 1, 40))

    assert randomization_test(differences, seed=1) == randomization_test(differences, seed=1)
    assert bootstrap_interval(differences, seed=1) == bootstrap_interval(differences, seed=1)
    assert randomization_test(differences, seed=1) != randomization_test(differences, seed=2)


def test_equal_systems_are_called_different_in_one_of_twenty_cases() -> None:
    """Two noisy copies of one system, 200 times; p is uniform, so 10 of 200 are below 0.05."""
    rng = np.random.default_rng(5)
    p_values = []
    for split in range(200):
        truth = rng.beta(2, 2, 60)
        noisy = [np.clip(truth + rng.normal(0, 0.1, 60), 0, 1) for _ in range(2)]
        p_values.append(randomization_test(noisy[1] - noisy[0], seed=split, resamples=199).p_value)

    for level in (0.05, 0.25, 0.5, 0.75):
        spread = np.sqrt(level * (1 - level) / 200)
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=3 * spread)


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(6)
    found = randomization_test(rng.normal(0.1, 0.1, 60), resamples=999)

    assert found.p_value == pytest.approx(1 / 1000)


def test_the_interval_covers_the_truth_in_about_95_of_100_cases() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for number in range(200):
        found = bootstrap_interval(rng.normal(0.05, 0.2, 40), seed=number, resamples=399)
        covered += found.low <= 0.05 <= found.high

    assert 0.88 <= covered / 200 <= 0.995


def test_the_interval_agrees_with_the_textbook_where_that_holds() -> None:
    values = np.random.default_rng(8).normal(0.1, 1, 400)
    error = values.std(ddof=1) / np.sqrt(400)

    found = bootstrap_interval(values)

    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


@pytest.mark.parametrize("other", [0.3 - 0.2, 0.1])
def test_equal_differences_have_a_point_as_interval_and_no_effect(other: float) -> None:
    found = bootstrap_interval([0.1, 0.1, other])

    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    assert effect_size([0.1, 0.1, other]) is None


def test_effect_worked_by_hand() -> None:
    assert effect_size([0.0, 2.0]) == pytest.approx(1 / np.sqrt(2))


def test_holm_worked_by_hand() -> None:
    """0.01 x 4, 0.02 x 3 = 0.06, 0.03 x 2 = 0.06, 0.04 x 1 is raised to the 0.06 before it."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.3]) == [0.3]
    assert holm([0.5, 0.9, 0.6]) == [1.0, 1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_only_raises_and_keeps_the_order(p_values: list[float]) -> None:
    found = holm(p_values)

    assert all(p <= adjusted <= 1 for p, adjusted in zip(p_values, found, strict=True))
    assert all(
        found[one] <= found[two]
        for one, two in product(range(len(found)), repeat=2)
        if p_values[one] <= p_values[two]
    )


@pytest.mark.parametrize("wrong", [[], [0.1, float("nan")], [float("inf"), 0.0]])
def test_what_is_no_number_is_refused(wrong: list[float]) -> None:
    for measured in (randomization_test, bootstrap_interval, effect_size):
        with pytest.raises(ValueError, match="difference"):
            measured(wrong)
    with pytest.raises(ValueError, match="expected at least two"):
        bootstrap_interval([0.1])
    with pytest.raises(ValueError, match="expected numbers in"):
        holm([float("nan")])
