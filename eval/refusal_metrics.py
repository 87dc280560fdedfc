"""Measures refusals, and how far an answer's confidence can be believed. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BINS = 10


@dataclass(frozen=True, slots=True)
class Refusals:
    """Refusing taken as a test for questions without an answer.

    Attributes:
        refused: Questions refused.
        rightly: Those of them that have no answer.
        unanswerable: Questions that have none; one that failed was not refused.
    """

    refused: int
    rightly: int
    unanswerable: int

    @property
    def precision(self) -> float:
        """Share of the refused questions that have no answer; 0 if none was refused."""
        return self.rightly / self.refused if self.refused else 0.0

    @property
    def recall(self) -> float:
        """Share of the questions without an answer that were refused; 0 if there are none."""
        return self.rightly / self.unanswerable if self.unanswerable else 0.0

    @property
    def f1(self) -> float:
        """2 P R / (P + R)."""
        both = self.refused + self.unanswerable
        return 2 * self.rightly / both if both else 0.0

    def to_json(self) -> dict[str, float]:
        """Return precision, recall and f1."""
        return {
            "precision": round(self.precision, 5),
            "recall": round(self.recall, 5),
            "f1": round(self.f1, 5),
        }


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about the same confidence.

    Attributes:
        low, high: Bounds; `high` belongs to the next bin, except 1.
        count: Answers in it.
        confidence: Their mean confidence, 0 if there are none.
        right: Those of them that are right.
    """

    low: float
    high: float
    count: int
    confidence: float
    right: int

    @property
    def share_right(self) -> float:
        """Share of the answers that are right, 0 if there are none."""
        return self.right / max(1, self.count)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence against being right, over the answers that were given.

    Attributes:
        bins: From confidence 0 to 1, of equal width, empty ones too.
    """

    bins: tuple[Bin, ...]

    @property
    def answers(self) -> int:
        """How many answers."""
        return sum(part.count for part in self.bins)

    @property
    def expected_error(self) -> float:
        """ECE (Naeini et al. 2015) in [0, 1], 0 is best; 0 without answers.

        Sum over bins of (count / all) * |share right - mean confidence|.
        """
        gaps = sum(part.count * abs(part.share_right - part.confidence) for part in self.bins)
        return gaps / self.answers if self.answers else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the error, and the bins that hold answers."""
        return {
            "answers": self.answers,
            "expected_calibration_error": round(self.expected_error, 5),
            "bins": [
                {
                    "low": round(part.low, 4),
                    "high": round(part.high, 4),
                    "answers": part.count,
                    "confidence": round(part.confidence, 5),
                    "right": round(part.share_right, 5),
                }
                for part in self.bins
                if part.count
            ],
        }


def calibration(answers: Sequence[tuple[float, bool]], bins: int = BINS) -> Calibration:
    """Sort answers into bins of equal width by their confidence.

    Args:
        answers: Confidence in [0, 1] and whether it is right, of each answer given. Questions
            refused or failed have no answer to be believed: count them beside this.
        bins: Number of bins, >= 1.

    Raises:
        ValueError: If a confidence is outside [0, 1], or there are no bins.
    """
    if bins < 1:
        raise ValueError(f"got {bins} bins, expected at least 1")
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for confidence, right in answers:
        if not 0 <= confidence <= 1:
            raise ValueError(f"got confidence {confidence}, expected 0 to 1")
        members[min(int(confidence * bins), bins - 1)].append((confidence, right))
    return Calibration(
        tuple(
            Bin(
                low=place / bins,
                high=(place + 1) / bins,
                count=len(some),
                confidence=sum(confidence for confidence, _ in some) / max(1, len(some)),
                right=sum(right for _, right in some),
            )
            for place, some in enumerate(members)
        )
    )
