"""Reads the test set that `--data` names, whatever its format.

- a folder: BEIR layout (eval.data)
- NAME/NAME: a data set of the hub in BEIR layout (eval.hub)
- .json: SQuAD, DRCD, CMRC 2018 (eval.squad)
- .csv, .jsonl: a table of question, answer and source, with a corpus (eval.table)
- any other file: TREC topics, with judgements and a corpus (eval.topics)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.data import RetrievalSet, read_set
from eval.sources import TextSource
from rag.errors import EvalDataError

MAX_DOCUMENT_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class DataSource:
    """What a test set is read from.

    Attributes:
        name: A path, or a name on the hub.
        split: Which judgements of a set in BEIR layout.
        limit: Keep the first so many queries that count, >= 1; None: all.
        corpus: What is searched, for topics and tables.
        qrels: The judgements, for topics.
        download: Whether a name on the hub may be fetched.
        max_bytes: Size up to which documents of a corpus are taken.
    """

    name: str
    split: str = "test"
    limit: int | None = None
    corpus: Path | None = None
    qrels: Path | None = None
    download: bool = False
    max_bytes: int = MAX_DOCUMENT_BYTES


def read_data(source: DataSource) -> RetrievalSet:
    """Read a test set.

    Raises:
        EvalDataError: If there is none, something that its format needs is missing or does not
            belong to it, or what is there is not as expected.
        PathError: If the corpus is a folder without documents.
        MissingExtra: If what reads .parquet is needed and not installed.
        ValueError: If the limit is below 1.
    """
    path = Path(source.name).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        _only(source, "a folder in BEIR layout")
        return read_set(path, source.split, source.limit)
    if not path.exists():
        from eval.hub import is_hub_name, read_hub_set

        if not is_hub_name(source.name):
            raise EvalDataError(
                f"{path} is not a folder.",
                do="Give --data a folder, a file, or a name on the hub like BeIR/scifact.",
            )
        _only(source, "a data set of the hub")
        return read_hub_set(
            source.name, download=source.download, split=source.split, limit=source.limit
        )
    if suffix == ".json":
        from eval.squad import read_squad

        _only(source, "a .json file")
        return read_squad(path, source.limit)
    if suffix in (".csv", ".jsonl"):
        from eval.table import read_table

        _only(source, "a table of questions", corpus=True)
        return read_table(path, _texts(source, "a table of questions"), source.limit)
    from eval.topics import read_trec

    if source.qrels is None:
        raise EvalDataError(
            f"Topics ({path.name}) need judgements.", do="Add --qrels FILE, and --corpus PATH."
        )
    return read_trec(path, source.qrels, _texts(source, "TREC topics"), source.limit)


def _texts(source: DataSource, what: str) -> TextSource:
    if source.corpus is None:
        raise EvalDataError(
            f"{what[0].upper()}{what[1:]} ({Path(source.name).name}) needs texts to search.",
            do="Add --corpus with a file of texts or a folder of documents.",
        )
    return TextSource(source.corpus, source.max_bytes)


def _only(source: DataSource, what: str, *, corpus: bool = False) -> None:
    for given, option in ((source.qrels, "--qrels"), (source.corpus, "--corpus")):
        if given is not None and not (corpus and option == "--corpus"):
            raise EvalDataError(f"{option} does not go with {what}.", do=f"Leave out {option}.")
