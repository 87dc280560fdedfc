"""Reads questions from a table of one's own: .csv, or .jsonl with the same keys.

    question   what is asked; rows with the same question are one query
    answer     an accepted answer, may be empty; in .jsonl also a list
    source     the file, or the passage, that answers; empty where nothing does; in .jsonl also a
               list

A source is an id of the corpus or the whole text of a passage of it; of a folder of documents, a
file by its path in the folder, or by its name alone if no other file is called so. Further columns
are ignored. Questions without a source are left out of retrieval.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.corpus import Checked, FolderCorpus
from eval.data import RetrievalSet, judged_set, query_text
from eval.jsonl import file_lines, json_object, shown, string, strings
from eval.qrels import Judgement
from eval.sources import TextSource
from rag.errors import EvalDataError

COLUMNS = ("question", "answer", "source")

_DO = f"Expected the columns {', '.join(COLUMNS)}."


@dataclass(frozen=True, slots=True)
class _Row:
    at: str
    question: str
    answers: tuple[str, ...]
    sources: tuple[str, ...]


def read_table(path: Path, corpus: TextSource, limit: int | None = None) -> RetrievalSet:
    """Read a set; its queries are called q1, q2, ... in the order of the file.

    Args:
        path: As laid out above, UTF-8; .csv with a header.
        corpus: What is searched.
        limit: Keep the first so many questions that have a source; None: all.

    Raises:
        EvalDataError: If a file cannot be read or a row is off, a source is not in the corpus or
            fits several files, a row repeats, or no question has a source.
        ValueError: If limit < 1.
    """
    rows = list(_csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path))
    ids: dict[str, str] = {}
    answers: dict[str, dict[str, None]] = {}
    for row in rows:
        id_ = ids.setdefault(row.question, f"q{len(ids) + 1}")
        answers.setdefault(id_, {}).update(dict.fromkeys(row.answers))
    found = corpus.read({source for row in rows for source in row.sources})
    names = _Names(found)
    judged: dict[tuple[str, str], Judgement] = {}
    seen: set[tuple[object, ...]] = set()
    for row in rows:
        if (row.question, row.answers, row.sources) in seen:
            raise EvalDataError(f"{row.at}: the row occurred before.", do="Remove one of the two.")
        seen.add((row.question, row.answers, row.sources))
        for source in row.sources:
            name = names.of(source, row.at)
            judged[ids[row.question], name] = Judgement(row.at, ids[row.question], name, 1)
    with_source = {query for query, _ in judged}
    if not judged:
        raise EvalDataError(f"{path} has no question with a source.", do=_DO)
    return judged_set(
        path.stem,
        queries={id_: text for text, id_ in ids.items() if id_ in with_source},
        queries_name=path.name,
        judgements=judged.values(),
        judged_by=path,
        corpus=lambda wanted: Checked(found.corpus, frozenset(wanted), {}),
        corpus_name=str(corpus.path),
        limit=limit,
        answers={id_: tuple(accepted) for id_, accepted in answers.items()},
        unanswerable=len(ids) - len(with_source),
    )


class _Names:
    """Finds what a source stands for."""

    def __init__(self, found: Checked) -> None:
        self._found = found
        files = found.corpus.files if isinstance(found.corpus, FolderCorpus) else ()
        self._paths = {name.rpartition("/")[2]: name for name in files}
        self._uses = Counter(name.rpartition("/")[2] for name in files)

    def of(self, source: str, at: str) -> str:
        if source in self._found.present:
            return source
        if self._uses[source] > 1:
            raise EvalDataError(
                f"{at}: {self._uses[source]} files are called {shown(source)}.",
                do="Give the source with its folders.",
            )
        name = self._paths.get(source) or self._found.by_text.get(source.strip())
        if name is None:
            raise EvalDataError(
                f"{at}: the source {shown(source)} is not in the corpus.",
                do="Expected a file's path, an id or the text of a passage, as it stands there.",
            )
        return name


def _csv_rows(path: Path) -> Iterator[_Row]:
    places: list[str] = [f"{path}, line 1"]

    def lines() -> Iterator[str]:
        for at, line in file_lines(path, _DO, blank=True):
            places[0] = at
            yield line + "\n"

    reader = csv.reader(lines(), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if any(header.count(name) != 1 for name in COLUMNS):
            raise EvalDataError(f"{places[0]}: got the columns {', '.join(header)!r:.200}.", do=_DO)
        for cells in reader:
            if not cells or cells == [""]:
                continue
            if len(cells) != len(header):
                raise EvalDataError(
                    f"{places[0]}: got {len(cells)} cells.",
                    do=f"Expected {len(header)}, as in the header; quote text that holds commas.",
                )
            row = dict(zip(header, cells, strict=True))
            yield _row(places[0], row["question"], (row["answer"],), (row["source"],))
    except csv.Error as error:
        raise EvalDataError(f"{places[0]}: not CSV ({error}).", do=_DO) from None


def _json_rows(path: Path) -> Iterator[_Row]:
    for at, line in file_lines(path, _DO):
        row = json_object(at, line)
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise EvalDataError(f"{at}: got no {missing[0]}.", do=_DO)
        answers, sources = (_several(row, key, at) for key in ("answer", "source"))
        yield _row(at, string(row, "question", at), answers, sources)


def _several(row: dict[str, Any], key: str, at: str) -> tuple[str, ...]:
    if not isinstance(row[key], list):
        return (string(row, key, at),)
    for item in strings(row, key, at):
        string({key: item}, key, at)
    return strings(row, key, at)


def _row(at: str, question: str, answers: Collection[str], sources: Collection[str]) -> _Row:
    return _Row(
        at,
        query_text(at, question).strip(),
        tuple(answer for answer in answers if answer.strip()),
        tuple(source.strip() for source in sources if source.strip()),
    )
