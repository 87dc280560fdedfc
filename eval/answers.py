"""Measures answers: does the text hold a right answer, how long is it, is refused what should be.

Two inputs: a BEIR folder with an `answers.jsonl` ({"_id": query id, "answers": [...]}), and a list
of questions with and without answer (`samples/qa.jsonl`). What answers is passed in as a function,
so any configuration can be measured; retrieval and stores are not this module's business.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.jsonl import json_rows, read, string, strings
from rag.errors import EvalDataError
from rag.language import is_chinese, text_length
from rag.schema import Answer

_MARK = re.compile(r"\[[0-9]{1,3}\]")
_SPACE = re.compile(r"\s+")


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
        cited: Those of them, among those that name their document, with a citation from it.
        unanswerable: Questions without an answer.
        refused: Those of them that were refused.
        wrongly_refused, wrongly_answered: Ids of the questions that came out wrong.
    """

    answerable: int
    kept: int
    correct: int
    cited: int
    unanswerable: int
    refused: int
    wrongly_refused: tuple[str, ...]
    wrongly_answered: tuple[str, ...]

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
            "wrongly_refused": list(self.wrongly_refused),
            "wrongly_answered": list(self.wrongly_answered),
        }


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a text contains one of the answers.

    Both are compared in Unicode compatibility form (NFKC), lower case, with white space folded;
    the [n] marks of the text are taken out first.
    """
    folded = _fold(_MARK.sub("", text))
    return any(part in folded for answer in answers if (part := _fold(answer)))


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
    begin = time.perf_counter()
    answers = []
    for done, question in enumerate(questions, 1):
        answers.append(ask(question.text))
        progress(done)
    seconds = time.perf_counter() - begin
    given = [answer for answer in answers if not answer.refused]
    words = [text_length(answer.text) for answer in given if not is_chinese(answer.text)]
    chars = [text_length(answer.text) for answer in given if is_chinese(answer.text)]
    return AnswersReport(
        questions=len(questions),
        correct=sum(
            not answer.refused and holds_answer(answer.text, question.answers)
            for answer, question in zip(answers, questions, strict=True)
        ),
        refused=len(answers) - len(given),
        mean_words=_mean(words),
        max_words=max(words, default=0),
        mean_chars=_mean(chars),
        max_chars=max(chars, default=0),
        mean_citations=_mean([len(answer.citations) for answer in given]),
        seconds=seconds,
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
    kept = correct = cited = refused = 0
    wrongly_refused: list[str] = []
    wrongly_answered: list[str] = []
    for done, question in enumerate(questions, 1):
        answer = ask(question.text)
        if not question.answers:
            refused += answer.refused
            if not answer.refused:
                wrongly_answered.append(question.id)
        elif answer.refused:
            wrongly_refused.append(question.id)
        else:
            kept += 1
            correct += holds_answer(answer.text, question.answers)
            files = [citation.file for citation in answer.citations]
            cited += bool(question.document) and any(
                file == question.document or file.endswith(f"/{question.document}")
                for file in files
            )
        progress(done)
    answerable = sum(bool(question.answers) for question in questions)
    return RefusalReport(
        answerable=answerable,
        kept=kept,
        correct=correct,
        cited=cited,
        unanswerable=len(questions) - answerable,
        refused=refused,
        wrongly_refused=tuple(wrongly_refused),
        wrongly_answered=tuple(wrongly_answered),
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


def _rows(path: Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return json_rows(path, read(path, "Expected JSON lines in UTF-8."), key)


def _fold(text: str) -> str:
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).lower()).strip()


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
