"""Measures how well passages are found: a test set through the product's own store and indexes.

Each text of the set is one passage, title as context, as the set's authors cut it; the embedder
reads as much of it as it can. The store lies in a folder of its own under home/eval, named by what
went into it, so that the next system on the same set finds it ready; it is safe to delete.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.data import CorpusText, RetrievalSet, read_set
from eval.metrics import evaluate_run
from eval.trec import check_ids, check_writable, write_run
from rag.build import OpenStore, Rag, in_folder
from rag.schema import Document, FloatArray, Passage
from rag.store.changelog import NewDocument
from rag.store.corpus import Store
from rag.terminal import Progress

if TYPE_CHECKING:
    from rag.retrieve import System

TOP_K = 100
"""Passages asked for each query: as deep as the deepest metric looks."""

_STORE = "corpus"
_TEXTS_AT_ONCE = 512
_QUERIES_AT_ONCE = 512
_NO_VECTORS = "none"


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """What a system scored.

    Attributes:
        system: "hybrid", "dense", "bm25" or "rrf", and "+" the reranker if there was one.
        data: Name of the set's folder.
        queries: Judged queries, all of which count.
        metrics: Mean by name, in the order of eval.metrics.METRICS, each in [0, 1].
        seconds: Wall clock of ranking all queries, embedding them included. Reading the set,
            indexing it, loading the models and computing the metrics are not in it.
    """

    system: str
    data: str
    queries: int
    metrics: dict[str, float]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return what `youju eval retrieval --json` prints; its keys are part of the interface."""
        return {
            "system": self.system,
            "data": self.data,
            "queries": self.queries,
            "metrics": {name: round(value, 5) for name, value in self.metrics.items()},
            "seconds": round(self.seconds, 3),
        }


def evaluate_retrieval(
    rag: Rag,
    data: Path,
    *,
    system: System | None = None,
    split: str = "test",
    limit: int | None = None,
    run_file: Path | None = None,
    progress: Callable[[Progress], None] = lambda _progress: None,
) -> RetrievalReport:
    """Rank a test set's texts for each of its judged queries, and score the rankings.

    Args:
        rag: The parts and settings to measure; its own stores are not touched.
        data: A folder in BEIR layout (see eval.data).
        system: How passages are found; None: as the settings say. For "bm25" no text is embedded.
        split: Which judgements.
        limit: Only the first so many judged queries, >= 1.
        run_file: Where the rankings go, in TREC format.
        progress: Called before each batch of texts and queries.

    Raises:
        EvalDataError: If the set is not as it should be, or an id cannot be written as a run.
        PathError: If the run cannot be written.
        ModelError: If the embedder or the reranker fails.
        StorageError: If the home folder cannot be used or is full.
    """
    system = system or rag.settings.system
    found = read_set(data, split, limit)
    if run_file is not None:
        check_writable(run_file)
        check_ids(item.id for items in (found.queries, found.corpus) for item in items)
    with_vectors = system != "bm25"
    label = f"{system}+{rag.settings.reranker}" if rag.reranker else system
    with opened_set(rag, found, progress, with_vectors=with_vectors) as opened:
        retriever = opened.retriever(system)
        texts = [query.text for query in found.queries]
        retriever.rank_many(texts[:1], TOP_K)  # loads what is loaded on first use
        begin = time.perf_counter()
        rankings = []
        for first in range(0, len(texts), _QUERIES_AT_ONCE):
            progress(Progress(first, len(texts), "searching"))
            rankings += retriever.rank_many(texts[first : first + _QUERIES_AT_ONCE], TOP_K)
        seconds = time.perf_counter() - begin
        chunks = opened.store.chunks(list({id_ for ranking in rankings for id_, _ in ranking}))
    run = {
        query.id: [chunks[id_].file for id_, _ in ranking]
        for query, ranking in zip(found.queries, rankings, strict=True)
    }
    if run_file is not None:
        write_run(run_file, run, label)
    return RetrievalReport(
        system=label,
        data=found.name,
        queries=len(found.queries),
        metrics=evaluate_run(found.qrels, run),
        seconds=seconds,
    )


@contextmanager
def opened_set(
    rag: Rag,
    data: RetrievalSet,
    progress: Callable[[Progress], None] = lambda _progress: None,
    *,
    with_vectors: bool = True,
) -> Iterator[OpenStore]:
    """Open the store that holds a set's texts, indexed now if no earlier run did it.

    Args:
        rag: The parts and settings to measure; its own stores are not touched.
        data: The set.
        progress: Called before each batch of texts.
        with_vectors: False embeds nothing: only "bm25" can search then.

    Raises:
        ModelError: If the embedder fails.
        StorageError: If the home folder cannot be used or is full.
    """
    beside = in_folder(rag, _folder(rag, data, with_vectors))
    with closing(beside.db):
        opened = OpenStore(beside, _filled(beside, data, with_vectors, progress))
        if with_vectors:
            opened.dense.save()
        yield opened


def _folder(rag: Rag, data: RetrievalSet, with_vectors: bool) -> Path:
    made_of = f"{data.corpus_sha256}\n{rag.embedder.fingerprint if with_vectors else _NO_VECTORS}"
    return rag.settings.home / "eval" / hashlib.sha256(made_of.encode()).hexdigest()[:20]


def _filled(
    rag: Rag, data: RetrievalSet, with_vectors: bool, progress: Callable[[Progress], None]
) -> Store:
    """Return the store that holds every text; what an earlier run stored is not done again."""
    store = rag.catalog.create(
        _STORE,
        embedder=rag.embedder.fingerprint if with_vectors else _NO_VECTORS,
        dim=rag.embedder.dim if with_vectors else 1,
        chunker="one passage a text",
    )
    held = store.hashes()
    missing = [text for text in data.corpus if text.id not in held]
    for first in range(0, len(missing), _TEXTS_AT_ONCE):
        progress(Progress(first, len(missing), "indexing"))
        texts = missing[first : first + _TEXTS_AT_ONCE]
        passages = [Passage(0, len(text.text), text.text, text.title) for text in texts]
        vectors: FloatArray = np.ones((len(texts), 1), np.float32)
        if with_vectors:
            vectors = rag.embedder.encode_passages([item.indexed_text for item in passages])
        store.commit(_documents(texts, passages, vectors))
    return store


def _documents(
    texts: Sequence[CorpusText], passages: Sequence[Passage], vectors: FloatArray
) -> list[NewDocument]:
    return [
        NewDocument(
            name=text.id,
            root="",
            sha256=hashlib.sha256(passage.indexed_text.encode()).hexdigest(),
            size=len(text.text.encode()),
            document=Document(text=text.text, title=text.title),
            passages=[passage],
            vectors=vectors[row : row + 1],
        )
        for row, (text, passage) in enumerate(zip(texts, passages, strict=True))
    ]
