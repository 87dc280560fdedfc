"""Reads the files of a set in the manner of the RGB benchmark, strictly.

Beside a BEIR set's corpus.jsonl, queries.jsonl and answers.jsonl lie

    noise.jsonl           {"_id": query id, "positive": [text id], "noise": [text id]}
    counterfactual.jsonl  {"_id", "question", "true_answer", "fake_answer",
                           "positive_wrong": [text], "positive": [text id]}

An answer there is a text, or a list of parts that are all wanted, each a text or a list of texts
of which one is enough.

A query's "part" in queries.jsonl, where it has one, tells the task: it ends in _int (integration),
_fact (counterfactual) or anything else (noise).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from eval.jsonl import json_rows, read, shown, string, strings
from rag.errors import EvalDataError

Task: TypeAlias = Literal["noise", "integration", "counterfactual"]
TASKS: tuple[Task, ...] = ("noise", "integration", "counterfactual")

Passage: TypeAlias = tuple[str, str]
"""Name and text."""

Parts: TypeAlias = tuple[tuple[str, ...], ...]
"""Parts of an answer, all of which are wanted, each with the texts of which one is enough."""

_LAYOUT = "Expected noise.jsonl and counterfactual.jsonl of the RGB benchmark beside the set."


@dataclass(frozen=True, slots=True)
class NoiseQuestion:
    """A question with passages that hold its answer and such that do not.

    Attributes:
        answers: Right answers; in integration all are wanted, or some are other spellings: the
            data do not say which.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    positive: tuple[Passage, ...]
    noise: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class FalseQuestion:
    """A question with passages of which falsified copies exist."""

    id: str
    text: str
    true_answer: Parts
    fake_answer: Parts
    positive: tuple[Passage, ...]
    wrong: tuple[Passage, ...]


def read_noise(folder: Path, *, integration: bool, limit: int | None = None) -> list[NoiseQuestion]:
    """Read the questions of the noise or the integration task, in file order.

    Args:
        folder: Holds corpus.jsonl, queries.jsonl, answers.jsonl and noise.jsonl.
        integration: Which of the two.
        limit: Keep the first so many; None: all.

    Raises:
        EvalDataError: If a file is missing or not as expected, or there is no such question.
    """
    texts = _texts(folder)
    answers = {
        row["_id"]: strings(row, "answers", at) for at, row in _rows(folder / "answers.jsonl")
    }
    given = dict(_noise(folder, texts))
    found = [
        NoiseQuestion(row["_id"], string(row, "text", at), right, *given[row["_id"]])
        for at, row in _rows(folder / "queries.jsonl")
        if row["_id"] in given
        and _part(string(row, "part", at, "")) == ("integration" if integration else "noise")
        and (right := answers.get(row["_id"]))
    ]
    if not found:
        task = "integration" if integration else "noise"
        raise EvalDataError(f"{folder} holds no question of the task {task}.", do=_LAYOUT)
    return found[:limit]


def read_false(folder: Path, limit: int | None = None) -> list[FalseQuestion]:
    """Read the questions with falsified passages, in file order.

    Args:
        folder: Holds corpus.jsonl and counterfactual.jsonl.
        limit: Keep the first so many; None: all.

    Raises:
        EvalDataError: If a file is missing, empty or not as expected.
    """
    texts = _texts(folder)
    found = []
    for at, row in _rows(folder / "counterfactual.jsonl"):
        wrong = strings(row, "positive_wrong", at)
        if not wrong:
            raise EvalDataError(f"{at}: positive_wrong is empty.", do=_LAYOUT)
        found.append(
            FalseQuestion(
                id=row["_id"],
                text=string(row, "question", at),
                true_answer=_parts(row, "true_answer", at),
                fake_answer=_parts(row, "fake_answer", at),
                positive=_named(row, "positive", at, texts),
                wrong=tuple((f"wrong{number}", text) for number, text in enumerate(wrong, 1)),
            )
        )
    if not found:
        raise EvalDataError(f"{folder} holds no falsified passages.", do=_LAYOUT)
    return found[:limit]


def _noise(
    folder: Path, texts: Mapping[str, str]
) -> list[tuple[str, tuple[tuple[Passage, ...], tuple[Passage, ...]]]]:
    return [
        (row["_id"], (_named(row, "positive", at, texts), _named(row, "noise", at, texts)))
        for at, row in _rows(folder / "noise.jsonl")
    ]


def _named(row: dict[str, Any], key: str, at: str, texts: Mapping[str, str]) -> tuple[Passage, ...]:
    ids = strings(row, key, at)
    if strangers := [id_ for id_ in ids if id_ not in texts]:
        raise EvalDataError(
            f"{at}: unknown text {shown(strangers[0])}.", do="Expected an _id of corpus.jsonl."
        )
    return tuple((id_, texts[id_]) for id_ in dict.fromkeys(ids))


def _parts(row: dict[str, Any], key: str, at: str) -> Parts:
    found = row.get(key)
    parts = found if isinstance(found, list) else [found]
    spelt = [part if isinstance(part, list) else [part] for part in parts]
    texts = [text for part in spelt for text in part]
    if not (spelt and all(spelt) and all(isinstance(t, str) and t.strip() for t in texts)):
        raise EvalDataError(
            f"{at}: got {key} {shown(found)}.", do="Expected text, or a list of texts or of lists."
        )
    return tuple(map(tuple, spelt))


def _part(part: str) -> Task:
    if part.endswith("_int"):
        return "integration"
    return "counterfactual" if part.endswith("_fact") else "noise"


def _texts(folder: Path) -> dict[str, str]:
    return {row["_id"]: string(row, "text", at) for at, row in _rows(folder / "corpus.jsonl")}


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return list(json_rows(path, read(path, _LAYOUT)))
