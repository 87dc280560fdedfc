"""Measures answers: does the text hold a right answer, how long is it, is refused what should be.

Two inputs: a BEIR folder with an `answers.jsonl` ({"_id": query id, "answers": [...]}), and a list
of questions with and without answer (`samples/qa.jsonl`). What answers is passed in as a function,
so any configuration can be measured; retrieval and stores are not this module's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eval.answer_metrics import holds_answer
from eval.asking import Case, Kept, Outcome, ask_all
from eval.jsonl import json_rows, read, string, strings
from eval.refusal_metrics import Calibration, Refusals, calibration
from rag.errors import EvalDataError
from rag.language import is_chinese, text_length
from rag.schema import Answer

__all__ = [
    "AnswersReport",
    "Asked",
    "RefusalReport",
    "ask_refusal",
    "calibrated",
    "evaluate_answers",
    "evaluate_refusal",
    "first_of_each",
    "holds_answer",
    "measure_answers",
    "measure_refusal",
    "read_qa",
    "read_questions",
    "read_unanswerable",
]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its right answers.

    Attributes:
        id: As in the data.
        text: The question.
        answers: Any of them is right; empty where the documents hold none.
        document: The file that holds it, "" where the data does not say.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    document: str = ""


@dataclass(frozen=True, slots=True)
class AnswersReport:
    """How answers to answerable questions came out; all shares are of all questions.

    Attributes:
        questions: Number asked.
        correct: Answers that hold a right answer.
        refused: Questions refused; they count as not correct.
        mean_words, max_words: Length of the answers given that are not Chinese, marks included.
        mean_chars, max_chars: Length of those that are, marks included.
        mean_citations: Citations of an answer given.
        seconds: Wall clock of all questions together.
        failed: Questions that could not be answered for a fault; they count as not correct.
    """

    questions: int
    correct: int
    refused: int
    mean_words: float
    max_words: int
    mean_chars: float
    max_chars: int
    mean_citations: float
    seconds: float
    failed: int = 0

    @property
    def accuracy(self) -> float:
        """Share of questions whose answer holds a right answer."""
        return self.correct / self.questions

    def to_json(self) -> dict[str, Any]:
        """Return what `youju eval answers --json` prints; its keys are part of the interface."""
        return {
            "questions": self.questions,
            "correct": self.correct,
            "accuracy": round(self.accuracy, 5),
            "refused": self.refused,
            "failed": self.failed,
            "mean_words": round(self.mean_words, 2),
            "max_words": self.max_words,
            "mean_chars": round(self.mean_chars, 2),
            "max_chars": self.max_chars,
            "mean_citations": round(self.mean_citations, 2),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class RefusalReport:
    """How well questions without an answer are told from those with one.

    Attributes:
        answerable: Questions with an answer.
        kept: Those of them that were not refused.
        correct: Those of them whose answer holds a right answer.
        cited: Those of them, among those that name their document, with a citation from it; None if
            no question names one.
        unanswerable: Questions without an answer.
        refused: Those of them that were refused.
        wrongly_refused, wrongly_answered: Ids of the questions that came out wrong.
        failed: Ids of those that could not be answered for a fault; neither kept nor refused.
        calibration: Confidence of the answers given against their being right.
    """

    answerable: int
    kept: int
    correct: int
    cited: int | None
    unanswerable: int
    refused: int
    wrongly_refused: tuple[str, ...]
    wrongly_answered: tuple[str, ...]
    failed: tuple[str, ...]
    calibration: Calibration

    @property
    def refusals(self) -> Refusals:
        """Refusing as a test for questions without an answer."""
        return Refusals(self.refused + len(self.wrongly_refused), self.refused, self.unanswerable)

    def to_json(self) -> dict[str, Any]:
        """Return what `youju eval refusal --json` prints; its keys are part of the interface."""
        return {
            "answerable": self.answerable,
            "kept": self.kept,
            "kept_rate": round(self.kept / max(1, self.answerable), 5),
            "correct": self.correct,
            "cited": self.cited,
            "unanswerable": self.unanswerable,
            "refused": self.refused,
            "refused_rate": round(self.refused / max(1, self.unanswerable), 5),
            **self.refusals.to_json(),
            "failed": list(self.failed),
            "calibration": self.calibration.to_json(),
            "wrongly_refused": list(self.wrongly_refused),
            "wrongly_answered": list(self.wrongly_answered),
        }


def evaluate_answers(
    ask: Callable[[str], Answer],
    questions: Sequence[Asked],
    progress: Callable[[int], None] = lambda _done: None,
) -> AnswersReport:
    """Ask every question and measure the answers.

    Args:
        ask: Answers one question.
        questions: All answerable, at least one.
        progress: Called after each question with the number done.

    Raises:
        ValueError: If there are no questions.
    """
    if not questions:
        raise ValueError("got no questions, expected at least one")
    return measure_answers(questions, ask_all(_cases(ask, questions), None, progress))


def measure_answers(questions: Sequence[Asked], outcomes: Sequence[Outcome]) -> AnswersReport:
    """Measure what became of answerable questions; one outcome each, in order."""
    given = [outcome.given for outcome in outcomes if outcome.given is not None]
    words = [text_length(answer.text) for answer in given if not is_chinese(answer.text)]
    chars = [text_length(answer.text) for answer in given if is_chinese(answer.text)]
    failed = sum(outcome.answer is None for outcome in outcomes)
    return AnswersReport(
        questions=len(questions),
        correct=sum(map(_is_right, questions, outcomes)),
        refused=len(outcomes) - len(given) - failed,
        mean_words=_mean(words),
        max_words=max(words, default=0),
        mean_chars=_mean(chars),
        max_chars=max(chars, default=0),
        mean_citations=_mean([len(answer.citations) for answer in given]),
        seconds=sum(outcome.seconds for outcome in outcomes),
        failed=failed,
    )


def evaluate_refusal(
    ask: Callable[[str], Answer],
    questions: Sequence[Asked],
    progress: Callable[[int], None] = lambda _done: None,
) -> RefusalReport:
    """Ask questions with and without an answer and count what is refused.

    Args:
        ask: Answers one question.
        questions: Those without answers are the ones to be refused.
        progress: Called after each question with the number done.
    """
    return ask_refusal(ask, questions, progress=progress)[0]


def ask_refusal(
    ask: Callable[[str], Answer],
    questions: Sequence[Asked],
    *,
    kept: Kept | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> tuple[RefusalReport, list[str]]:
    """Do what `evaluate_refusal` does; return why questions failed, too, each reason once."""
    outcomes = ask_all(_cases(ask, questions), kept, progress)
    faults = dict.fromkeys(outcome.fault for outcome in outcomes if outcome.fault)
    return measure_refusal(questions, outcomes), list(faults)


def first_of_each(questions: Sequence[Asked], limit: int | None) -> list[Asked]:
    """Return the first so many questions with an answer and without one, in order; None: all."""
    left = {True: limit, False: limit}
    chosen = []
    for question in questions:
        room = left[bool(question.answers)]
        if room is None or room > 0:
            chosen.append(question)
            left[bool(question.answers)] = None if room is None else room - 1
    return chosen


def measure_refusal(questions: Sequence[Asked], outcomes: Sequence[Outcome]) -> RefusalReport:
    """Measure what became of questions with and without an answer; one outcome each, in order."""
    both = list(zip(questions, outcomes, strict=True))
    asked = [(question, outcome) for question, outcome in both if question.answers]
    none = [(question, outcome) for question, outcome in both if not question.answers]
    failed = {outcome.id for outcome in outcomes if outcome.answer is None}
    given = [(question, outcome.given) for question, outcome in both if outcome.given]
    named = any(question.document for question, _ in asked)
    return RefusalReport(
        answerable=len(asked),
        kept=sum(outcome.given is not None for _, outcome in asked),
        correct=sum(_is_right(question, outcome) for question, outcome in asked),
        cited=sum(_cites_document(*pair) for pair in given) if named else None,
        unanswerable=len(none),
        refused=sum(_refused(outcome) for _, outcome in none),
        wrongly_refused=tuple(q.id for q, outcome in asked if _refused(outcome)),
        wrongly_answered=tuple(q.id for q, outcome in none if outcome.given is not None),
        failed=tuple(q.id for q in questions if q.id in failed),
        calibration=calibrated(questions, outcomes),
    )


def calibrated(questions: Sequence[Asked], outcomes: Sequence[Outcome]) -> Calibration:
    """Hold the confidence of every answer given against whether it holds a right answer."""
    return calibration(
        [
            (outcome.given.confidence, _is_right(question, outcome))
            for question, outcome in zip(questions, outcomes, strict=True)
            if outcome.given is not None
        ]
    )


def read_questions(folder: Path, limit: int | None = None) -> list[Asked]:
    """Read the questions of a BEIR folder that have answers in its `answers.jsonl`.

    Args:
        folder: Holds queries.jsonl and answers.jsonl.
        limit: Keep the first so many; None: all.

    Raises:
        EvalDataError: If a file is missing or not as expected, or no question has an answer.
    """
    answers = {
        row["_id"]: strings(row, "answers", at)
        for at, row in _rows(folder / "answers.jsonl", "_id")
    }
    questions = [
        Asked(row["_id"], string(row, "text", at), found)
        for at, row in _rows(folder / "queries.jsonl", "_id")
        if (found := answers.get(row["_id"]))
    ]
    if not questions:
        raise EvalDataError(
            f"{folder} has no question with an answer.",
            do="Expected the _id of queries.jsonl in answers.jsonl.",
        )
    return questions[:limit]


def read_qa(path: Path) -> list[Asked]:
    """Read questions with and without an answer.

    Args:
        path: One object a line: "id", "question", "answers" (empty if there is none), and
            optionally "document".

    Raises:
        EvalDataError: If the file is missing or not as expected.
    """
    return [
        Asked(
            id=row["id"],
            text=string(row, "question", at),
            answers=strings(row, "answers", at),
            document=string(row, "document", at) if row.get("document") else "",
        )
        for at, row in _rows(path, "id")
    ]


def read_unanswerable(path: Path, limit: int | None = None) -> list[Asked]:
    """Read questions that the documents do not answer.

    Args:
        path: One object a line: "_id", "question".
        limit: Keep the first so many; None: all.

    Raises:
        EvalDataError: If the file is missing, empty or not as expected.
    """
    found = [Asked(row["_id"], string(row, "question", at), ()) for at, row in _rows(path, "_id")]
    if not found:
        raise EvalDataError(f"{path} holds no questions.", do='Expected {"_id", "question"} lines.')
    return found[:limit]


def _cases(ask: Callable[[str], Answer], questions: Sequence[Asked]) -> list[Case]:
    return [Case(question.id, partial(ask, question.text)) for question in questions]


def _is_right(question: Asked, outcome: Outcome) -> bool:
    return outcome.given is not None and holds_answer(outcome.given.text, question.answers)


def _refused(outcome: Outcome) -> bool:
    return outcome.answer is not None and outcome.answer.refused


def _cites_document(question: Asked, answer: Answer) -> bool:
    return bool(question.answers and question.document) and any(
        cited.file == question.document or cited.file.endswith(f"/{question.document}")
        for cited in answer.citations
    )


def _rows(path: Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return json_rows(path, read(path, "Expected JSON lines in UTF-8."), key)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
