"""What a report holds: values only, ready to be shown or serialised. It measures and draws nothing.

Texts are as they were in the test set, cut; whoever shows them makes them harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from eval.refusal_metrics import Calibration


@dataclass(frozen=True, slots=True)
class SystemResult:
    """How well one system finds passages.

    Attributes:
        name: "hybrid", "dense", "bm25" or "rrf", and "+" the reranker if there was one.
        metrics: Mean by name, each in [0, 1]; empty if it failed.
        recall: recall@k for k = 1, 2, ..., each in [0, 1].
        ndcg: nDCG@10 of every query, in the order of the queries.
        latencies_ms: Milliseconds of single queries, as many as were timed.
        failure: Why it could not be measured, "" if it could.
    """

    name: str
    metrics: Mapping[str, float]
    recall: tuple[float, ...] = ()
    ndcg: tuple[float, ...] = ()
    latencies_ms: tuple[float, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class RelevantText:
    """A text that should have been found.

    Attributes:
        id, title, beginning: Of the text.
        grade: How relevant it is, >= 1.
        ranks: Its rank in each system measured, from 1, or None, by the system's name.
    """

    id: str
    title: str
    beginning: str
    grade: int
    ranks: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class FoundText:
    """A text that was found. `grade` is 0 if it is not relevant or not judged."""

    rank: int
    id: str
    title: str
    beginning: str
    grade: int


@dataclass(frozen=True, slots=True)
class WorstQuery:
    """A query that the best system answered badly.

    Attributes:
        id, text: Of the query.
        scores: nDCG@10 by system.
        relevant: What should have been found, the first ones.
        relevant_in_all: Number of texts that should have been found.
        found: What the best system found, the first ones.
    """

    id: str
    text: str
    scores: Mapping[str, float]
    relevant: tuple[RelevantText, ...]
    relevant_in_all: int
    found: tuple[FoundText, ...]


@dataclass(frozen=True, slots=True)
class WrongAnswer:
    """An answer that holds no right answer; `refused` if none was given."""

    id: str
    question: str
    expected: tuple[str, ...]
    given: str
    confidence: float
    refused: bool


@dataclass(frozen=True, slots=True)
class AnswersResult:
    """How answers to answerable questions came out.

    Attributes:
        answerer: Who wrote the answers.
        system: How passages were found for them.
        questions: Number asked. Shares are of all of them.
        right: Answers that hold a right answer.
        refused: Questions refused; they count as not right.
        failed: Questions that met an error; they count as not right.
        cited: Answers with a citation from a relevant text.
        citations: Citations of all answers given.
        latencies_ms: Milliseconds of the questions that met no error, but the first.
        bins: Of the answers given, by confidence; they cover [0, 1].
        wrong: Answers that are not right, the most confident first.
        failure: What stopped the measurement, or the first question's error; else "".
    """

    answerer: str
    system: str
    questions: int = 0
    right: int = 0
    refused: int = 0
    failed: int = 0
    cited: int = 0
    citations: int = 0
    latencies_ms: tuple[float, ...] = ()
    calibration: Calibration = field(default_factory=lambda: Calibration(()))
    wrong: tuple[WrongAnswer, ...] = ()
    failure: str = ""

    @property
    def given(self) -> int:
        """Answers that were given: neither refused nor failed."""
        return self.questions - self.refused - self.failed


@dataclass(frozen=True, slots=True)
class Fact:
    """A setting, a version, a file: its name, its value, and more where there is more."""

    name: str
    value: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All that a report shows.

    Attributes:
        data: Name of the set.
        split: Which judgements.
        queries: Judged queries measured.
        texts: Texts searched.
        made_at: When, UTC, ISO 8601.
        seed: Of all draws.
        command: What repeats it, for a shell.
        systems: In the order asked for, failed ones included.
        worst: Of the best system, the worst first.
        answers: None if there are none.
        without_answers: Why there are none, as a sentence.
        settings: Each with its origin; secrets are not among the values.
        versions: Of the program, its libraries and the machine.
        files: Of the set: name, sha256, bytes.
    """

    data: str
    split: str
    queries: int
    texts: int
    made_at: str
    seed: int
    command: str
    systems: tuple[SystemResult, ...]
    worst: tuple[WorstQuery, ...] = ()
    answers: AnswersResult | None = None
    without_answers: str = ""
    settings: tuple[Fact, ...] = ()
    versions: tuple[Fact, ...] = ()
    files: tuple[Fact, ...] = ()

    @property
    def measured(self) -> tuple[SystemResult, ...]:
        """The systems that did not fail."""
        return tuple(system for system in self.systems if not system.failure)

    @property
    def best(self) -> SystemResult | None:
        """The system with the highest nDCG@10, the first of equals; None if all failed."""
        return max(self.measured, key=lambda system: system.metrics["nDCG@10"], default=None)
