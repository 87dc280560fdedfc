"""Ranks a set's queries in batches, and keeps the finished ones until all are done.

A run that is killed goes on where it was: each finished batch is a file in a folder named by the
queries, the system and the settings, beside the store of the texts. Chunks are resolved to the
texts' own ids, each once, at its best rank.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eval.data import JudgedQuery
from eval.files import write_whole
from rag.errors import PathError, StorageError
from rag.retrieve import Retriever
from rag.schema import Chunk, FloatArray
from rag.terminal import Progress

QUERIES_AT_ONCE = 512


class TimedEmbedder:
    """An embedder that says how long it took over queries.

    Args:
        inner: The embedder, with its view of text, `tokens`.

    Attributes:
        seconds: Wall clock of all calls of `encode_queries` so far.
    """

    def __init__(self, inner: Any) -> None:  # noqa: ANN401
        self._inner = inner
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Return what the embedder has."""
        return getattr(self._inner, name)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Embed queries as the embedder does, and add the time it took."""
        begin = time.perf_counter()
        try:
            vectors: FloatArray = self._inner.encode_queries(texts)
            return vectors
        finally:
            self.seconds += time.perf_counter() - begin


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rankings of some queries, and what they took.

    Attributes:
        rankings: Text ids of each query, best first.
        seconds: Wall clock, embedding included.
        embedding_seconds: Of it, spent on embedding the queries.
    """

    rankings: tuple[tuple[str, ...], ...]
    seconds: float
    embedding_seconds: float


def rank_queries(
    retriever: Retriever,
    queries: Sequence[JudgedQuery],
    depth: int,
    *,
    chunks_by_id: Callable[[Sequence[int]], dict[int, Chunk]],
    embedded: Callable[[], float],
    keep: Path,
    progress: Callable[[Progress], None],
) -> Ranked:
    """Rank every query, in batches.

    Args:
        retriever: What is measured.
        queries: At least one.
        depth: Passages asked for each, >= 1.
        chunks_by_id: Fetches passages.
        embedded: Seconds spent on embedding so far.
        keep: Folder of the finished batches, made and in the end removed.
        progress: Called before each batch.

    Raises:
        ModelError: If the embedder or the reranker fails.
        StorageError: If the store cannot be read, or a batch cannot be kept.
    """
    batches: list[Ranked] = []
    for first in range(0, len(queries), QUERIES_AT_ONCE):
        progress(Progress(first, len(queries), "searching"))
        some = queries[first : first + QUERIES_AT_ONCE]
        kept = keep / f"{first:08d}.json"
        batch = _read(kept, len(some))
        if batch is None:
            begin, before = time.perf_counter(), embedded()
            found = retriever.rank_many([query.text for query in some], depth)
            names = _names(found, chunks_by_id)
            rankings = tuple(
                tuple(dict.fromkeys(names[id_] for id_, _ in one if id_ in names)) for one in found
            )
            batch = Ranked(rankings, time.perf_counter() - begin, embedded() - before)
            _write(kept, batch)
        batches.append(batch)
    with contextlib.suppress(OSError):
        shutil.rmtree(keep)
    return Ranked(
        rankings=tuple(ranking for batch in batches for ranking in batch.rankings),
        seconds=sum(batch.seconds for batch in batches),
        embedding_seconds=sum(batch.embedding_seconds for batch in batches),
    )


def rankings_folder(beside: Path, made_of: Sequence[str], queries: Sequence[JudgedQuery]) -> Path:
    """Return where batches are kept.

    Args:
        beside: Folder of the set's store.
        made_of: Everything that the rankings depend on, apart from the texts and the queries.
        queries: All of them, in order.
    """
    try:
        ours = version("youju")
    except PackageNotFoundError:
        ours = ""
    digest = hashlib.sha256()
    for part in [ours, str(QUERIES_AT_ONCE), *made_of]:
        digest.update(part.encode(errors="surrogateescape") + b"\n")
    for query in queries:
        digest.update(json.dumps([query.id, query.text]).encode() + b"\n")
    return beside / f"rankings-{digest.hexdigest()[:20]}"


def _names(
    found: Sequence[Sequence[tuple[int, float]]],
    chunks_by_id: Callable[[Sequence[int]], dict[int, Chunk]],
) -> dict[int, str]:
    chunks = chunks_by_id(list({id_ for ranking in found for id_, _ in ranking}))
    return {id_: chunk.file for id_, chunk in chunks.items()}


def _read(path: Path, queries: int) -> Ranked | None:
    """Return a batch that an earlier run finished; None if there is none or it is damaged."""
    try:
        found = json.loads(path.read_bytes())
        batch = Ranked(
            tuple(tuple(ranking) for ranking in found["rankings"]),
            float(found["seconds"]),
            float(found["embedding_seconds"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = all(isinstance(id_, str) for ranking in batch.rankings for id_ in ranking)
    return batch if whole and len(batch.rankings) == queries else None


def _write(path: Path, batch: Ranked) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, [json.dumps(asdict(batch), ensure_ascii=False)])
    except (OSError, PathError) as error:
        raise StorageError(
            f"Cannot keep what is done in {path.parent}: {error}", do="Make room, or set home."
        ) from error
