r"""A retrieval test set, and how it is read from a folder in BEIR layout, strictly.

    corpus.jsonl        {"_id": ..., "title": ..., "text": ...}, title optional
    queries.jsonl       {"_id": ..., "text": ...}
    qrels/<split>.tsv   header query-id, corpus-id, score; then one judgement a line, by tabs

Further keys are ignored. What is off is named by file and line. The other formats: eval.formats.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eval.corpus import Checked, Corpus, CorpusText, check_corpus
from eval.jsonl import checked_id, file_lines, shown, string, unique_rows
from eval.qrels import Judgement, beir_judgements, grades
from rag.errors import EvalDataError

__all__ = [
    "CorpusText", "JudgedQuery", "LeftOut", "RetrievalSet", "beir_set", "judged_set", "query_text",
    "read_set",
]  # fmt: skip

_LAYOUT = "Expected corpus.jsonl, queries.jsonl and qrels/<split>.tsv (BEIR layout)."


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query with at least one relevant text."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How many queries do not count, by reason.

    Attributes:
        unjudged: Nothing says what is relevant to them.
        nothing_relevant: All that is judged for them is judged not relevant.
        unanswerable: The set says that they have no answer.
    """

    unjudged: int = 0
    nothing_relevant: int = 0
    unanswerable: int = 0


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """A test set.

    Attributes:
        name: The folder's or the file's name.
        corpus: The texts, read anew at each pass.
        queries: The judged ones, in file order.
        qrels: Query id -> text id -> grade (0: not relevant); of `queries` exactly.
        answers: Query id -> accepted answers, where the format has them; () of none.
        left_out: Queries that are not among `queries`, but for the limit.
    """

    name: str
    corpus: Corpus
    queries: tuple[JudgedQuery, ...]
    qrels: Mapping[str, Mapping[str, int]]
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: LeftOut = LeftOut()


def read_set(folder: Path, split: str = "test", limit: int | None = None) -> RetrievalSet:
    """Read a test set in BEIR layout.

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
    if not folder.is_dir():
        raise EvalDataError(f"{folder} is not a folder.", do=_LAYOUT)
    return beir_set(folder.resolve().name, folder, folder / "qrels", split, limit)


def beir_set(name: str, folder: Path, qrels: Path, split: str, limit: int | None) -> RetrievalSet:
    """Read a test set whose judgements may lie in another folder.

    Args:
        name: What the set is called.
        folder: Holds corpus and queries: .jsonl, .jsonl.gz, or folders of .parquet files.
        qrels: Holds <split>.tsv.
        split: Which judgements.
        limit: As of `read_set`, which also says what is raised.
    """
    qrels_path = _qrels_path(folder, qrels, split)
    corpus, queries = _file(folder, "corpus"), _file(folder, "queries")
    return judged_set(
        name,
        queries=dict(_queries(queries)),
        queries_name=queries.name,
        judgements=beir_judgements(qrels_path, _LAYOUT),
        judged_by=qrels_path,
        corpus=lambda wanted: check_corpus(corpus, wanted),
        corpus_name=corpus.name,
        limit=limit,
    )


def judged_set(
    name: str,
    *,
    queries: Mapping[str, str],
    queries_name: str,
    judgements: Iterable[Judgement],
    judged_by: Path,
    corpus: Callable[[Collection[str]], Checked],
    corpus_name: str,
    limit: int | None,
    answers: Mapping[str, tuple[str, ...]] | None = None,
    unanswerable: int = 0,
) -> RetrievalSet:
    """Put a set together and check that its parts fit.

    Args:
        name: What the set is called.
        queries: Text by id, in file order.
        queries_name: Where they come from, for messages.
        judgements: Who is relevant to whom.
        judged_by: Their file, for messages.
        corpus: Reads the texts once and says which of the ids given are there.
        corpus_name: Where they come from, for messages.
        limit: Keep the first so many judged queries; None: all.
        answers: Accepted answers by query id.
        unanswerable: Queries left out already because they have no answer.

    Raises:
        EvalDataError: If a judgement names an unknown query or text or repeats, the corpus is not
            as it should be, or nothing is left to evaluate.
        ValueError: If limit < 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"got limit {limit}, expected at least 1")
    first_named: dict[str, str] = {}

    def noted() -> Iterator[Judgement]:
        for one in judgements:
            if one.query not in queries:
                raise _unknown(one.at, "query", one.query, queries_name)
            first_named.setdefault(one.text, one.at)
            yield one

    qrels = grades(noted())
    checked = corpus(first_named.keys())
    for text, at in first_named.items():
        if text not in checked.present:
            raise _unknown(at, "text", text, corpus_name)
    judged = [key for key in queries if any(qrels.get(key, {}).values())]
    if not judged:
        raise EvalDataError(
            f"{judged_by} judges no text as relevant.", do="Expected a score above 0 somewhere."
        )
    return RetrievalSet(
        name=name,
        corpus=checked.corpus,
        queries=tuple(JudgedQuery(key, queries[key]) for key in judged[:limit]),
        qrels={key: qrels[key] for key in judged[:limit]},
        answers={key: (answers or {}).get(key, ()) for key in judged[:limit] if answers},
        left_out=LeftOut(
            unjudged=len(queries) - len(qrels),
            nothing_relevant=len(qrels) - len(judged),
            unanswerable=unanswerable,
        ),
    )


def query_text(at: str, text: str) -> str:
    """Return the text of a query.

    Raises:
        EvalDataError: If it is blank: nothing could be found for it.
    """
    if not text.strip():
        raise EvalDataError(f"{at}: the query is empty.", do="Give it a text, or remove it.")
    return text


def _queries(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_dir():
        from eval.parquet import parquet_rows

        seen: set[str] = set()
        for at, row in parquet_rows(path, ("_id", "text")):
            id_ = checked_id(row, "_id", at)
            if id_ in seen:
                raise EvalDataError(f"{at}: _id {shown(id_)} occurred before.")
            seen.add(id_)
            yield id_, query_text(at, string(row, "text", at))
        return
    for at, row in unique_rows(file_lines(path, _LAYOUT)):
        yield row["_id"], query_text(at, string(row, "text", at))


def _file(folder: Path, stem: str) -> Path:
    """Return the file that holds the corpus or the queries; the usual name if there is none."""
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (folder / name).exists():
            return folder / name
    parts = folder / stem
    return parts if any(parts.glob("*.parquet")) else folder / f"{stem}.jsonl"


def _qrels_path(folder: Path, qrels: Path, split: str) -> Path:
    found = {path.stem: path for path in sorted(qrels.glob("*.tsv"))}
    if split not in found:
        splits = ", ".join(found) or "none"
        raise EvalDataError(
            f"{folder} has no split {split!r} (splits in qrels/: {splits}).",
            do="Give --split NAME." if found else _LAYOUT,
        )
    return found[split]


def _unknown(at: str, what: str, id_: str, known: str) -> EvalDataError:
    return EvalDataError(f"{at}: unknown {what} {shown(id_)}.", do=f"Expected an _id of {known}.")
