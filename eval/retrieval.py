"""Measures how well and how fast passages are found: a test set through the product's own store.

eval.indexed holds the texts, eval.rankings ranks, eval.metrics scores; this module puts them
together and reports.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from eval.data import JudgedQuery, LeftOut, RetrievalSet, read_set
from eval.files import check_writable, write_whole
from eval.indexed import index_bytes, set_folder
from eval.indexed import opened_set as opened_set
from eval.metrics import METRICS, greatest_cut_off, means, query_values
from eval.rankings import TimedEmbedder, rank_queries, rankings_folder
from eval.trec import check_ids, write_run
from rag.build import Rag, in_folder
from rag.terminal import Progress

if TYPE_CHECKING:
    from rag.retrieve import Retriever, System

TOP_K = 100
"""Passages asked for each query, or as many as the greatest cut-off if that is more."""

LATENCY_SAMPLE = 50
"""Queries asked one by one to time them, at most."""

_NOT_IN_KEY = {"home", "database_url", "store"}


@dataclass(frozen=True, slots=True)
class Latency:
    """How long one query takes, embedding and fetching its top_k passages included.

    Attributes:
        queries: Number timed, one after the other.
        median_ms, p95_ms: Milliseconds; 95 of 100 take at most p95_ms.
    """

    queries: int
    median_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """What a system scored.

    Attributes:
        system: "hybrid", "dense", "bm25" or "rrf", and "+" the reranker if there was one.
        data: Name of the set.
        queries: Judged queries, all of which count.
        metrics: Mean by name, in the order asked for, each in [0, 1].
        seconds: Wall clock of ranking all queries, embedding them included. Reading the set,
            indexing it, loading the models and computing the metrics are not in it.
        embedding_seconds: Of it, spent on embedding the queries.
        depth: Passages asked for each query.
        texts: Texts, or documents, that were searched.
        latency: Of single queries.
        index_bytes: Size of each index's files: "dense", "lexical".
        left_out: Queries that do not count.
    """

    system: str
    data: str
    queries: int
    metrics: dict[str, float]
    seconds: float
    embedding_seconds: float
    depth: int
    texts: int
    latency: Latency
    index_bytes: dict[str, int]
    left_out: LeftOut

    def to_json(self) -> dict[str, Any]:
        """Return what `youju eval retrieval --json` prints; its keys are part of the interface."""
        return {
            "system": self.system,
            "data": self.data,
            "queries": self.queries,
            "metrics": self.metrics,
            "seconds": round(self.seconds, 3),
            "embedding_seconds": round(self.embedding_seconds, 3),
            "depth": self.depth,
            "texts": self.texts,
            "latency": {
                "queries": self.latency.queries,
                "median_ms": round(self.latency.median_ms, 3),
                "p95_ms": round(self.latency.p95_ms, 3),
            },
            "index_bytes": self.index_bytes,
            "left_out": asdict(self.left_out),
        }


def evaluate_retrieval(
    rag: Rag,
    data: Path | RetrievalSet,
    *,
    system: System | None = None,
    split: str = "test",
    limit: int | None = None,
    metrics: Sequence[str] = METRICS,
    run_file: Path | None = None,
    per_query: Path | None = None,
    progress: Callable[[Progress], None] = lambda _progress: None,
) -> RetrievalReport:
    """Rank a test set's texts for each of its judged queries, and score the rankings.

    A run that broke off goes on: texts already indexed and queries already ranked are not done
    again.

    Args:
        rag: The parts and settings to measure; its own stores are not touched.
        data: A set, or a folder in BEIR layout (see eval.data).
        system: How passages are found; None: as the settings say. For "bm25" no text is embedded.
        split: Which judgements of a folder.
        limit: Only the first so many judged queries of a folder, >= 1.
        metrics: What is reported; see eval.metrics.
        run_file: Where the rankings go, in TREC format.
        per_query: Where the metrics of each query go, one JSON object a line.
        progress: Called before each batch of texts and queries.

    Raises:
        EvalDataError: If the set is not as it should be, or an id cannot be written as a run.
        PathError: If a file cannot be written.
        ModelError: If the embedder or the reranker fails.
        StorageError: If the home folder cannot be used or is full.
    """
    system = system or rag.settings.system
    found = read_set(data, split, limit) if isinstance(data, Path) else data
    _check_outputs(found, run_file, per_query)
    with_vectors = system != "bm25"
    label = f"{system}+{rag.settings.reranker}" if rag.reranker else system
    depth = max(TOP_K, greatest_cut_off(metrics))
    timed = TimedEmbedder(rag.embedder)
    measured = in_folder(rag, rag.settings.home)
    measured.embedder = cast(Any, timed)
    made_of = [
        label,
        str(depth),
        rag.settings.model_dump_json(exclude=_NOT_IN_KEY),
        rag.embedder.fingerprint if with_vectors else "",
    ]
    beside = set_folder(rag, found, with_vectors=with_vectors)
    with opened_set(measured, found, progress, with_vectors=with_vectors) as opened:
        retriever = opened.retriever(system)
        retriever.rank_many([found.queries[0].text], depth)  # loads what is loaded on first use
        ranked = rank_queries(
            retriever,
            found.queries,
            depth,
            chunks_by_id=opened.store.chunks,
            embedded=lambda: timed.seconds,
            keep=rankings_folder(beside, made_of, found.queries),
            progress=progress,
        )
        latency = _latency(retriever, found.queries, rag.settings.top_k)
        sizes = index_bytes(beside, opened.store)
    run = {query.id: ranking for query, ranking in zip(found.queries, ranked.rankings, strict=True)}
    values = query_values(found.qrels, run, metrics)
    if run_file is not None:
        write_run(run_file, run, label)
    if per_query is not None:
        write_per_query(per_query, values, found.qrels, run)
    return RetrievalReport(
        system=label,
        data=found.name,
        queries=len(found.queries),
        metrics=means(values),
        seconds=ranked.seconds,
        embedding_seconds=ranked.embedding_seconds,
        depth=depth,
        texts=len(found.corpus),
        latency=latency,
        index_bytes=sizes,
        left_out=found.left_out,
    )


def write_per_query(
    path: Path,
    values: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Sequence[str]],
) -> None:
    """Write {"query", "metrics", "relevant", "retrieved"} for each query, one object a line.

    Args:
        path: Replaced if it exists.
        values: Metrics by query.
        qrels: Judgements of the same queries.
        run: Rankings.

    Raises:
        PathError: If it cannot be written.
    """
    rows = (
        {
            "query": query,
            "metrics": dict(of_query),
            "relevant": sum(grade > 0 for grade in qrels[query].values()),
            "retrieved": len(run.get(query, ())),
        }
        for query, of_query in values.items()
    )
    write_whole(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _check_outputs(found: RetrievalSet, run_file: Path | None, per_query: Path | None) -> None:
    """Refuse what cannot be written, before hours are spent on it."""
    for path in (run_file, per_query):
        if path is not None:
            check_writable(path)
    if run_file is not None:
        of_set: tuple[Iterable[Any], ...] = (found.queries, found.corpus)
        check_ids(item.id for items in of_set for item in items)


def _latency(retriever: Retriever, queries: Sequence[JudgedQuery], top_k: int) -> Latency:
    """Time single queries, spread over all of them."""
    number = min(LATENCY_SAMPLE, len(queries))
    spent = []
    for place in range(number):
        text = queries[place * len(queries) // number].text
        begin = time.perf_counter()
        retriever.search(text, top_k)
        spent.append((time.perf_counter() - begin) * 1000)
    spent.sort()
    return Latency(number, statistics.median(spent), spent[math.ceil(0.95 * number) - 1])
