"""Asks about passages that are given with the question: no store, no search, the same chain.

Also reads sets of this kind: a question, the text it is about, and the stretches that prove the
answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.jsonl import json_rows, read, shown, string, strings
from rag.build import Rag
from rag.chain import Chain, Question
from rag.errors import EvalDataError
from rag.schema import Answer, Chunk, Hit

_LAYOUT = 'Expected JSON lines {"_id", "question", "context", "answers", "evidences"}.'


@dataclass(frozen=True, slots=True)
class EvidenceQuestion:
    """A question about one text.

    Attributes:
        id: As in the data.
        text: The question.
        context: What is given with it.
        answers: Any of them is right.
        evidences: (start, end) of stretches of the context, each of which alone is proof.
    """

    id: str
    text: str
    context: str
    answers: tuple[str, ...]
    evidences: tuple[tuple[int, int], ...]


def given_hits(passages: Sequence[tuple[str, str]]) -> list[Hit]:
    """Make hits of (name, text) pairs in their order.

    Nothing searched for them, so they have no bm25 and no cosine: the evidence check then goes by
    words alone.
    """
    return [
        Hit(Chunk(number, name, 0, len(text), text), score=1 / number)
        for number, (name, text) in enumerate(passages, 1)
    ]


def ask_given(rag: Rag, question: str, passages: Sequence[tuple[str, str]]) -> Answer:
    """Answer a question from given passages alone, by the configured chain.

    Args:
        rag: The parts; its stores are not touched.
        question: The question.
        passages: (name, text), best first.

    Raises:
        QueryError: If the question is empty or too long.
        ModelError: If the generator fails.
    """
    hits = given_hits(passages)
    chain = Chain(
        lambda _query, _top_k: hits,
        rag.answerer,
        page_of=lambda _cited: None,
        max_question_chars=rag.settings.max_question_chars,
        condense=rag.condense,
    )
    return chain.runnable().invoke(Question(question, max(1, len(hits))))


def evidence_file(folder: Path) -> Path | None:
    """Return the one file of questions with evidence in a folder that is no BEIR set, or None."""
    files = sorted(folder.glob("*.jsonl"))
    return files[0] if len(files) == 1 else None


def read_evidence(path: Path, limit: int | None = None) -> list[EvidenceQuestion]:
    """Read questions with their text and evidence.

    Args:
        path: JSON lines {"_id", "question", "context", "answers", "evidences"}; an evidence is a
            stretch of the context, word for word.
        limit: Keep the first so many; None: all.

    Raises:
        EvalDataError: If the file is missing, empty or not as expected.
    """
    found = list(_questions(path))
    if not found:
        raise EvalDataError(f"{path} holds no questions.", do=_LAYOUT)
    return found[:limit]


def _questions(path: Path) -> Iterator[EvidenceQuestion]:
    for at, row in json_rows(path, read(path, _LAYOUT)):
        context = string(row, "context", at)
        answers = strings(row, "answers", at)
        if not answers:
            raise EvalDataError(f"{at}: no right answer.", do=_LAYOUT)
        yield EvidenceQuestion(
            id=row["_id"],
            text=string(row, "question", at),
            context=context,
            answers=answers,
            evidences=_stretches(row, context, at),
        )


def _stretches(row: dict[str, Any], context: str, at: str) -> tuple[tuple[int, int], ...]:
    evidences = strings(row, "evidences", at)
    starts = [context.find(evidence) if evidence else -1 for evidence in evidences]
    if not evidences or min(starts) < 0:
        raise EvalDataError(
            f"{at}: got evidences {shown(list(evidences))}.",
            do="Expected at least one, each a stretch of the context.",
        )
    return tuple((start, start + len(text)) for start, text in zip(starts, evidences, strict=True))
