r"""Reads a retrieval test set in BEIR layout, strictly: what is off is named by file and line.

    corpus.jsonl        {"_id": ..., "title": ..., "text": ...}, title optional
    queries.jsonl       {"_id": ..., "text": ...}
    qrels/<split>.tsv   header query-id, corpus-id, score; then one judgement a line, by tabs

Further keys are ignored. Lines end at "\n" and nowhere else: texts hold U+2028 and U+0085.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.jsonl import json_rows, read, shown, string, text_lines
from rag.errors import EvalDataError

QRELS_HEADER = ("query-id", "corpus-id", "score")
MAX_GRADE = 1000

_LAYOUT = "Expected corpus.jsonl, queries.jsonl and qrels/<split>.tsv (BEIR layout)."


@dataclass(frozen=True, slots=True)
class CorpusText:
    """A text to be found. `title` is "" where the set has none."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query with at least one relevant text."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """A test set.

    Attributes:
        name: The folder's name.
        corpus: In file order.
        corpus_sha256: Hex digest of corpus.jsonl's bytes.
        queries: The judged ones, in file order.
        qrels: Query id -> text id -> grade (0: not relevant); of `queries` exactly.
    """

    name: str
    corpus: tuple[CorpusText, ...]
    corpus_sha256: str
    queries: tuple[JudgedQuery, ...]
    qrels: Mapping[str, Mapping[str, int]]


def read_set(folder: Path, split: str = "test", limit: int | None = None) -> RetrievalSet:
    """Read a test set.

    A query is judged if the split holds a grade above 0 for it; the others are left out, since no
    system could find anything for them.

    Args:
        folder: In BEIR layout.
        split: Which judgements: qrels/<split>.tsv.
        limit: Keep the first so many judged queries of queries.jsonl; None: all.

    Raises:
        EvalDataError: If a file is missing, unreadable or not as laid out above, an id repeats, a
            judgement names an unknown query or text, or nothing is left to evaluate.
        ValueError: If limit < 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"got limit {limit}, expected at least 1")
    if not folder.is_dir():
        raise EvalDataError(f"{folder} is not a folder.", do=_LAYOUT)
    corpus_path, queries_path = folder / "corpus.jsonl", folder / "queries.jsonl"
    qrels_path = _qrels_path(folder, split)
    corpus_bytes = read(corpus_path, _LAYOUT)
    corpus = {
        row["_id"]: CorpusText(row["_id"], string(row, "title", at, ""), string(row, "text", at))
        for at, row in json_rows(corpus_path, corpus_bytes)
    }
    queries = {
        row["_id"]: JudgedQuery(row["_id"], string(row, "text", at))
        for at, row in json_rows(queries_path, read(queries_path, _LAYOUT))
    }
    if not corpus:
        raise EvalDataError(f"{corpus_path} holds no texts.", do=_LAYOUT)
    qrels = _read_qrels(qrels_path, queries.keys(), corpus.keys())
    judged = [query for key, query in queries.items() if any(qrels.get(key, {}).values())][:limit]
    if not judged:
        raise EvalDataError(
            f"{qrels_path} judges no text as relevant.", do="Expected a score above 0 somewhere."
        )
    return RetrievalSet(
        name=folder.resolve().name,
        corpus=tuple(corpus.values()),
        corpus_sha256=hashlib.sha256(corpus_bytes).hexdigest(),
        queries=tuple(judged),
        qrels={query.id: qrels[query.id] for query in judged},
    )


def _qrels_path(folder: Path, split: str) -> Path:
    found = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
    if split not in found:
        splits = ", ".join(found) or "none"
        raise EvalDataError(
            f"{folder} has no split {split!r} (splits in qrels/: {splits}).",
            do="Give --split NAME." if found else _LAYOUT,
        )
    return found[split]


def _read_qrels(
    path: Path, queries: Container[str], texts: Container[str]
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    lines = text_lines(path, read(path, _LAYOUT))
    at, header = next(lines, (f"{path}, line 1", ""))
    if tuple(header.split("\t")) != QRELS_HEADER:
        raise EvalDataError(
            f"{at}: got {shown(header)}.",
            do=f"Expected the header {', '.join(QRELS_HEADER)}, separated by tabs.",
        )
    for at, line in lines:
        cells = line.split("\t")
        if len(cells) != 3:
            raise EvalDataError(
                f"{at}: got {shown(line)}.", do="Expected query id, text id and score, by tabs."
            )
        query, text, grade = cells
        if query not in queries or text not in texts:
            what, id_ = ("query", query) if query not in queries else ("text", text)
            raise EvalDataError(
                f"{at}: unknown {what} {shown(id_)}.",
                do=f"Expected an _id of {'queries' if what == 'query' else 'corpus'}.jsonl.",
            )
        if not (grade.isascii() and grade.isdigit() and len(grade) < 5 and int(grade) <= MAX_GRADE):
            raise EvalDataError(
                f"{at}: got score {shown(grade)}.",
                do=f"Expected a whole number from 0 to {MAX_GRADE}.",
            )
        grades = qrels.setdefault(query, {})
        if text in grades:
            raise EvalDataError(
                f"{at}: query {shown(query)} and text {shown(text)} are judged twice.",
                do="Remove one of the two lines.",
            )
        grades[text] = int(grade)
    return qrels
