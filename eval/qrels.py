"""Reads judgements: BEIR's .tsv files and TREC's four columns.

    query-id <tab> corpus-id <tab> score     a header of these names, then one judgement a line
    query iteration text grade               by white space, without header; iteration is not read

A grade is a whole number; above 0 means relevant. TREC files may hold grades below 0: they say
"not relevant" to the metrics here, and are read as 0, since they make pytrec_eval crash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eval.jsonl import file_lines, shown
from rag.errors import EvalDataError

HEADER = ("query-id", "corpus-id", "score")
MAX_GRADE = 1000

_GRADE = re.compile(r"-?[0-9]{1,4}", re.ASCII)
_BEIR = f"Expected the header {', '.join(HEADER)}, separated by tabs."


@dataclass(frozen=True, slots=True)
class Judgement:
    """How relevant a text is to a query. `at` is where that stands; `grade` >= 0."""

    at: str
    query: str
    text: str
    grade: int


def beir_judgements(path: Path, do: str = _BEIR) -> Iterator[Judgement]:
    """Yield the judgements of a file in BEIR layout.

    Args:
        path: The file.
        do: What the error tells the user to do if it cannot be read.

    Raises:
        EvalDataError: If it cannot be read or a line is off.
    """
    lines = file_lines(path, do)
    at, header = next(lines, (f"{path}, line 1", ""))
    if tuple(header.split("\t")) != HEADER:
        raise EvalDataError(f"{at}: got {shown(header)}.", do=_BEIR)
    for at, line in lines:
        cells = line.split("\t")
        if len(cells) != 3:
            raise EvalDataError(
                f"{at}: got {shown(line)}.", do="Expected query id, text id and score, by tabs."
            )
        query, text, grade = cells
        yield Judgement(at, query, text, _grade(at, grade, least=0))


def judgements(path: Path) -> Iterator[Judgement]:
    """Yield the judgements of a file in either layout, told apart by the header.

    Raises:
        EvalDataError: If it cannot be read, a line is off, or it holds no judgement.
    """
    lines = file_lines(path, "Give --qrels the name of a file.")
    at, first = next(lines, (f"{path}, line 1", ""))
    if tuple(first.split("\t")) == HEADER:
        yield from beir_judgements(path)
        return
    yield _trec_judgement(at, first)
    for at, line in lines:
        yield _trec_judgement(at, line)


def grades(found: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    """Return query id -> text id -> grade.

    Raises:
        EvalDataError: If a query and a text are judged twice.
    """
    qrels: dict[str, dict[str, int]] = {}
    for one in found:
        of_query = qrels.setdefault(one.query, {})
        if one.text in of_query:
            raise EvalDataError(
                f"{one.at}: query {shown(one.query)} and text {shown(one.text)} are judged twice.",
                do="Remove one of the two lines.",
            )
        of_query[one.text] = one.grade
    return qrels


def _trec_judgement(at: str, line: str) -> Judgement:
    cells = line.split()
    if len(cells) != 4:
        raise EvalDataError(
            f"{at}: got {shown(line)}.",
            do="Expected `query iteration text grade`, or BEIR's header in the first line.",
        )
    query, _, text, grade = cells
    return Judgement(at, query, text, max(0, _grade(at, grade, least=-MAX_GRADE)))


def _grade(at: str, cell: str, least: int) -> int:
    if not _GRADE.fullmatch(cell) or not least <= int(cell) <= MAX_GRADE:
        raise EvalDataError(
            f"{at}: got score {shown(cell)}.",
            do=f"Expected a whole number from {least} to {MAX_GRADE}.",
        )
    return int(cell)
