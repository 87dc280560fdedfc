"""Reads the queries of TREC: <top> with <num> and <title>, or two columns by a tab."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from eval.data import RetrievalSet, judged_set, query_text
from eval.jsonl import checked_id, file_lines, repeated, shown, string
from eval.qrels import judgements
from eval.sources import TextSource
from rag.errors import EvalDataError

_TAG = re.compile(r"<(/?)([a-z][a-z0-9_-]*)>", re.IGNORECASE)
_LABEL = {
    "num": re.compile(r"\s*(?:number\s*:)?", re.IGNORECASE),
    "title": re.compile(r"\s*(?:topic\s*:)?", re.IGNORECASE),
}
_DO = "Expected <top> with <num> and <title>, or id and text by a tab."


def read_trec(
    topics: Path, qrels: Path, corpus: TextSource, limit: int | None = None
) -> RetrievalSet:
    """Read a set in TREC's files.

    Args:
        topics: The queries.
        qrels: The judgements, TREC's or BEIR's.
        corpus: What is searched.
        limit: Keep the first so many judged queries; None: all.

    Raises:
        EvalDataError: If a file cannot be read or is not as expected, an id repeats, a judgement
            names an unknown query or text, or nothing is left to evaluate.
        ValueError: If limit < 1.
    """
    return judged_set(
        topics.stem,
        queries=read_topics(topics),
        queries_name=topics.name,
        judgements=judgements(qrels),
        judged_by=qrels,
        corpus=corpus.read,
        corpus_name=corpus.path.name,
        limit=limit,
    )


def read_topics(path: Path) -> dict[str, str]:
    """Return the text of each query by its id, in file order.

    Raises:
        EvalDataError: If the file is not as expected, an id repeats or a text is empty.
    """
    lines = list(file_lines(path, _DO))
    marked = any(line.lstrip().lower().startswith("<top>") for _, line in lines)
    queries: dict[str, str] = {}
    for at, id_, text in _marked(lines) if marked else _columns(lines):
        id_ = checked_id({"id": id_}, "id", at)
        if id_ in queries:
            raise repeated(at, "id", id_)
        queries[id_] = query_text(at, string({"text": text}, "text", at))
    if not queries:
        raise EvalDataError(f"{path} holds no queries.", do=_DO)
    return queries


def _columns(lines: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    for at, line in lines:
        cells = line.split("\t")
        if len(cells) != 2:
            raise EvalDataError(f"{at}: got {shown(line)}.", do=_DO)
        yield at, cells[0], cells[1]


def _marked(lines: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield place, id and title of each topic; the other fields are passed over."""
    start, name, fields = "", "", dict[str, str]()
    for at, line in lines:
        place = 0
        for tag in [*_TAG.finditer(line), None]:
            end = len(line) if tag is None else tag.start()
            if name in _LABEL:
                fields[name] += line[place:end] + " "
            elif not start and line[place:end].strip():
                raise EvalDataError(f"{at}: got {shown(line)} outside of a topic.", do=_DO)
            if tag is None:
                break
            place, closing, name = tag.end(), bool(tag[1]), tag[2].lower()
            if name == "top" and closing == bool(start):
                if closing:
                    yield start, _field(fields, "num", start), _field(fields, "title", start)
                start, fields, name = ("" if closing else at), {}, ""
            elif name == "top" or not start or (not closing and name in fields):
                raise EvalDataError(f"{at}: got {tag[0]} out of place.", do=_DO)
            elif closing:
                name = ""
            else:
                fields[name] = ""
    if start:
        raise EvalDataError(f"{start}: the topic is not closed.", do="Expected </top>.")


def _field(fields: dict[str, str], name: str, at: str) -> str:
    if name not in fields:
        raise EvalDataError(f"{at}: the topic has no <{name}>.", do=_DO)
    return " ".join(_LABEL[name].sub("", fields[name], count=1).split())
