from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.refusal_metrics import Refusals, calibration


def test_refusing_as_a_test_by_hand() -> None:
    found = Refusals(refused=4, rightly=3, unanswerable=5)
    assert (found.precision, found.recall) == (3 / 4, 3 / 5)
    assert found.f1 == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    assert found.to_json() == {"precision": 0.75, "recall": 0.6, "f1": 0.66667}
    assert Refusals(0, 0, 5).to_json() == {"precision": 0, "recall": 0, "f1": 0}
    assert Refusals(0, 0, 0).f1 == 0
    assert Refusals(2, 0, 0).recall == 0


def test_the_calibration_curve_by_hand() -> None:
    found = calibration([(0.55, True), (0.59, False), (0.95, True), (1.0, True), (0.0, False)])
    rows = [(part.low, part.count, part.share_right) for part in found.bins if part.count]
    assert rows == [(0.0, 1, 0.0), (0.5, 2, 0.5), (0.9, 2, 1.0)]
    # 1/5 * |0 - 0| + 2/5 * |0.5 - 0.57| + 2/5 * |1 - 0.975|
    assert found.expected_error == pytest.approx(0.4 * 0.07 + 0.4 * 0.025)
    assert found.answers == 5
    assert found.to_json()["bins"][1] == {
        "low": 0.5, "high": 0.6, "answers": 2, "confidence": 0.57, "right": 0.5
    }  # fmt: skip


def test_no_answers_have_no_error() -> None:
    assert calibration([]).to_json() == {
        "answers": 0, "expected_calibration_error": 0.0, "bins": []
    }  # fmt: skip


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_a_confidence_out_of_range_is_told(confidence: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        calibration([(confidence, True)])
    with pytest.raises(ValueError, match="at least 1"):
        calibration([], bins=0)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30),
    st.integers(1, 12),
)
def test_every_answer_is_in_one_bin(answers: list[tuple[float, bool]], bins: int) -> None:
    found = calibration(answers, bins)
    assert found.answers == len(answers)
    assert 0 <= found.expected_error <= 1
    for part in found.bins:
        assert part.count == 0 or part.low - 1e-9 <= part.confidence <= part.high + 1e-9
    if bins == 1 and answers:
        gap = sum(right for _, right in answers) - sum(confidence for confidence, _ in answers)
        assert found.expected_error == pytest.approx(abs(gap) / len(answers))
