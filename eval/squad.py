"""Reads reading comprehension sets as retrieval sets: SQuAD's JSON, which DRCD has too, and CMRC's.

The paragraphs become the corpus, equal ones once; the questions the queries; the paragraph a
question was written for is what is relevant to it. Questions without an answer are left out.

    SQuAD, DRCD   {"data": [{"title", "paragraphs": [{"context", "qas": [
                      {"id", "question", "answers": [{"text"}], "is_impossible"}]}]}]}
    CMRC 2018     [{"context_text", "title", "qas": [{"query_id", "query_text", "answers": [...]}]}]
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.corpus import Checked, CorpusText, HeldCorpus
from eval.data import RetrievalSet, judged_set, query_text
from eval.jsonl import checked_id, read, repeated, shown, string, text_lines
from eval.qrels import Judgement
from rag.errors import EvalDataError

_LAYOUT = "Expected JSON as of SQuAD, DRCD or CMRC 2018."


@dataclass(frozen=True, slots=True)
class _Paragraph:
    at: str
    title: str
    text: str
    questions: list[Any]
    keys: tuple[str, str]
    """What a question's id and text are called."""


def read_squad(path: Path, limit: int | None = None) -> RetrievalSet:
    """Read a set.

    Args:
        path: As laid out above, UTF-8.
        limit: Keep the first so many questions that have an answer; None: all.

    Raises:
        EvalDataError: If it cannot be read, is laid out otherwise, an id repeats, or no question
            has an answer.
        ValueError: If limit < 1.
    """
    ids: dict[str, str] = {}
    texts: list[CorpusText] = []
    queries: dict[str, str] = {}
    answers: dict[str, tuple[str, ...]] = {}
    judged: list[Judgement] = []
    seen: set[str] = set()
    for paragraph in _paragraphs(path):
        if paragraph.text not in ids:
            ids[paragraph.text] = f"p{len(ids) + 1}"
            texts.append(CorpusText(ids[paragraph.text], paragraph.title, paragraph.text))
        id_key, text_key = paragraph.keys
        for number, item in enumerate(paragraph.questions, start=1):
            at = f"{paragraph.at}, question {number}"
            row = _object(item, at)
            id_ = checked_id(row, id_key, at)
            if id_ in seen:
                raise repeated(at, id_key, id_)
            seen.add(id_)
            text = query_text(at, string(row, text_key, at))
            accepted = () if row.get("is_impossible") is True else _answers(row, at)
            if accepted:
                queries[id_], answers[id_] = text, accepted
                judged.append(Judgement(at, id_, ids[paragraph.text], 1))
    if not judged:
        raise EvalDataError(f"{path} has no question with an answer.", do=_LAYOUT)
    return judged_set(
        path.stem,
        queries=queries,
        queries_name=path.name,
        judgements=judged,
        judged_by=path,
        corpus=lambda wanted: Checked(HeldCorpus(tuple(texts)), frozenset(wanted), {}),
        corpus_name=path.name,
        limit=limit,
        answers=answers,
        unanswerable=len(seen) - len(queries),
    )


def _paragraphs(path: Path) -> Iterator[_Paragraph]:
    whole = "\n".join(line for _, line in text_lines(path, read(path, _LAYOUT)))
    try:
        content = json.loads(whole)
    except (ValueError, RecursionError) as error:
        raise EvalDataError(f"{path} is not JSON ({error}).", do=_LAYOUT) from None
    if isinstance(content, dict):
        for number, item in enumerate(_list(content, "data", str(path)), start=1):
            at = f"{path}, article {number}"
            article = _object(item, at)
            title = string(article, "title", at, "")
            for place, inner in enumerate(_list(article, "paragraphs", at), start=1):
                inside = f"{at}, paragraph {place}"
                yield _paragraph(_object(inner, inside), inside, title, "context", "id", "question")
    elif isinstance(content, list):
        for number, item in enumerate(content, start=1):
            at = f"{path}, paragraph {number}"
            row = _object(item, at)
            title = string(row, "title", at, "")
            yield _paragraph(row, at, title, "context_text", "query_id", "query_text")
    else:
        raise EvalDataError(f"{path}: got {shown(content)}.", do=_LAYOUT)


def _paragraph(
    row: dict[str, Any], at: str, title: str, text: str, id_key: str, question: str
) -> _Paragraph:
    return _Paragraph(at, title, string(row, text, at), _list(row, "qas", at), (id_key, question))


def _answers(row: dict[str, Any], at: str) -> tuple[str, ...]:
    """Return the accepted answers, each once; blank ones are none."""
    found = [
        string(item if isinstance(item, dict) else {"text": item}, "text", at)
        for item in _list(row, "answers", at)
    ]
    return tuple(dict.fromkeys(answer for answer in found if answer.strip()))


def _list(row: dict[str, Any], key: str, at: str) -> list[Any]:
    found = row.get(key)
    if not isinstance(found, list):
        got = f"{key} {shown(found)}" if key in row else f"no {key}"
        raise EvalDataError(f"{at}: got {got}.", do=f"Expected a list {key}. {_LAYOUT}")
    return found


def _object(item: object, at: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise EvalDataError(f"{at}: got {shown(item)}.", do=f"Expected an object. {_LAYOUT}")
    return item
