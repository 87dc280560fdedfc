r"""Reads a retrieval test set in BEIR layout, strictly: what is off is named by file and line.

    corpus.jsonl        {"_id": ..., "title": ..., "text": ...}, title optional
    queries.jsonl       {"_id": ..., "text": ...}
    qrels/<split>.tsv   header query-id, corpus-id, score; then one judgement a line, by tabs

Further keys are ignored. Lines end at "\n" and nowhere else: texts hold U+2028 and U+0085.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    corpus_bytes = _read(corpus_path)
    corpus = {
        row["_id"]: CorpusText(row["_id"], _text(row, "title", at, ""), _text(row, "text", at))
        for at, row in _json_rows(corpus_path, corpus_bytes)
    }
    queries = {
        row["_id"]: JudgedQuery(row["_id"], _text(row, "text", at))
        for at, row in _json_rows(queries_path, _read(queries_path))
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
    lines = _lines(path, _read(path))
    at, header = next(lines, (f"{path}, line 1", ""))
    if tuple(header.split("\t")) != QRELS_HEADER:
        raise EvalDataError(
            f"{at}: got {_shown(header)}.",
            do=f"Expected the header {', '.join(QRELS_HEADER)}, separated by tabs.",
        )
    for at, line in lines:
        cells = line.split("\t")
        if len(cells) != 3:
            raise EvalDataError(
                f"{at}: got {_shown(line)}.", do="Expected query id, text id and score, by tabs."
            )
        query, text, grade = cells
        if query not in queries or text not in texts:
            what, id_ = ("query", query) if query not in queries else ("text", text)
            raise EvalDataError(
                f"{at}: unknown {what} {_shown(id_)}.",
                do=f"Expected an _id of {'queries' if what == 'query' else 'corpus'}.jsonl.",
            )
        if not (grade.isascii() and grade.isdigit() and len(grade) < 5 and int(grade) <= MAX_GRADE):
            raise EvalDataError(
                f"{at}: got score {_shown(grade)}.",
                do=f"Expected a whole number from 0 to {MAX_GRADE}.",
            )
        grades = qrels.setdefault(query, {})
        if text in grades:
            raise EvalDataError(
                f"{at}: query {_shown(query)} and text {_shown(text)} are judged twice.",
                do="Remove one of the two lines.",
            )
        grades[text] = int(grade)
    return qrels


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EvalDataError(f"Cannot read {path}: {error.strerror}.", do=_LAYOUT) from None


def _lines(path: Path, data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every line that is not blank."""
    try:
        whole = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise EvalDataError(
            f"{path}, line {number}: not UTF-8 (byte 0x{data[error.start]:02x}).",
            do="Save the file as UTF-8.",
        ) from None
    for number, line in enumerate(whole.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", line.removesuffix("\r")


def _json_rows(path: Path, data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the object of every line; their _id are strings, each occurring once."""
    seen: set[str] = set()
    for at, line in _lines(path, data):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise EvalDataError(
                f"{at}: not JSON ({error}).", do="Expected one JSON object a line."
            ) from None
        if not isinstance(row, dict):
            raise EvalDataError(f"{at}: got {_shown(line)}.", do="Expected a JSON object.")
        id_ = _text(row, "_id", at)
        if not id_.strip() or "\t" in id_ or "\n" in id_:
            raise EvalDataError(
                f"{at}: got _id {_shown(id_)}.", do="Expected text without tabs or line ends."
            )
        if id_ in seen:
            raise EvalDataError(
                f"{at}: _id {_shown(id_)} occurred before.", do="Expected every _id once."
            )
        seen.add(id_)
        yield at, row


def _text(row: dict[str, Any], key: str, at: str, default: str | None = None) -> str:
    found = row.get(key, default)
    if not isinstance(found, str):
        got = f"{key} {_shown(found)}" if key in row else f"no {key}"
        raise EvalDataError(f"{at}: got {got}.", do=f"Expected a string {key}.")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise EvalDataError(
            f"{at}: {key} holds half a character (a lone surrogate).", do="Mend or remove it."
        ) from None
    return found


def _shown(value: object) -> str:
    return f"{value!r:.80}"
