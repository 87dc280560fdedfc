"""Writes what became of each question as JSON lines, for reading and for comparing two runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.asking import Outcome
from eval.files import write_whole


def question_row(
    task: str,
    id_: str,
    question: str,
    right: Sequence[str],
    outcome: Outcome,
    scores: Mapping[str, float],
    **more: object,
) -> dict[str, Any]:
    """Return the object of one question.

    Args:
        task: "answers", or "noise", "integration", "counterfactual" with their ratio.
        id_: As in the set.
        question: As asked.
        right: The right answers.
        outcome: What became of it.
        scores: By name; 0 where it was refused or failed.
        **more: Further keys.
    """
    answer = outcome.answer
    return {
        "task": task,
        "_id": id_,
        "question": question,
        "right_answers": list(right),
        "answer": answer.text if answer else None,
        "refused": answer.refused if answer else None,
        "fault": outcome.fault,
        "confidence": answer.confidence if answer else None,
        "citations": [
            {"file": cited.file, "start": cited.start, "end": cited.end}
            for cited in (answer.citations if answer else ())
        ],
        "seconds": round(outcome.seconds, 4),
        "scores": {name: round(score, 6) for name, score in scores.items()},
        **more,
    }


def write_questions(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the objects; the file appears whole or not at all.

    Raises:
        PathError: If it cannot be written.
    """
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(path, lines, errors="replace")
