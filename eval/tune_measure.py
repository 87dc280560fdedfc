"""Scores settings on queries, quickly: what does not depend on the settings is done once.

Both indexes are asked for each query once, as deep as any setting can look, and their rankings are
kept in memory; a trial then runs the product's own retriever over them. The first hits of a deep
search are those of a shallow one (both indexes order ties by id), so the scores are exactly those
of a search on its own. A reranker reads each pair of query and passage once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from eval.data import JudgedQuery
from eval.metrics import evaluate_run
from rag.build_search import make_retriever
from rag.schema import Chunk, FloatArray, IntArray, Ranking

if TYPE_CHECKING:
    from rag.build import OpenStore, Rag
    from rag.config import Settings

_QUERIES_AT_ONCE = 256
_LEXICAL_BYTES = 512 * 1024 * 1024  # of word rankings that are kept

OpenFor = Callable[["Settings"], AbstractContextManager["OpenStore"]]
"""Opens the store that holds the texts as the settings cut and index them."""

NamesOf = Callable[[Chunk], Sequence[str]]
"""Ids of the set's texts that a passage stands for, none of them for a stranger."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is scored.

    Attributes:
        queries: The queries, not empty.
        qrels: Query id -> text id -> grade, of exactly these.
        metric: A name out of eval.metrics.METRICS.
        places: Ranks that the metric looks at.
        depth: Hits of an index that any of the settings to come can ask for.
    """

    queries: Sequence[JudgedQuery]
    qrels: Mapping[str, Mapping[str, int]]
    metric: str
    places: int
    depth: int


@dataclass(slots=True)
class _Cut:
    """What is kept of a corpus in one way of cutting it."""

    dense: _Remembered
    names: dict[int, tuple[str, ...]] = field(default_factory=dict)
    chunks: dict[int, Chunk] = field(default_factory=dict)


class Measure:
    """Scores settings on a task.

    Args:
        rag: Gives the embedder and the reranker.
        task: What is scored.
        open_for: Opens the texts' store; it is closed again at once.
        names_of: What a passage stands for.

    Raises:
        ModelError: If the embedder fails; the queries are embedded here.
    """

    def __init__(self, rag: Rag, task: Task, open_for: OpenFor, names_of: NamesOf) -> None:
        self._task = task
        self._open_for = open_for
        self._names_of = names_of
        texts = [query.text for query in task.queries]
        self._texts = [text for text in dict.fromkeys(texts) if text and not text.isspace()]
        self._row = {text: row for row, text in enumerate(self._texts)}
        self._vectors = rag.embedder.encode_queries(self._texts)
        self._coverage = rag.tokens.coverage(self._texts)
        self._reranker = _RememberedReranker(rag.reranker) if rag.reranker else None
        self._cuts: dict[tuple[int, int], _Cut] = {}
        self._lexical: OrderedDict[tuple[int, int, float], _Remembered] = OrderedDict()

    @property
    def unread(self) -> bool:
        """Whether some query is not wholly readable for the embedder."""
        return bool((self._coverage < 1).any())

    def score(self, settings: Settings) -> float:
        """Return the mean of the metric over the queries, in [0, 1].

        Raises:
            ModelError: If the embedder or the reranker fails.
            StorageError: If the store cannot be made or read.
        """
        found = evaluate_run(self._task.qrels, self.run(settings))
        return found[self._task.metric]

    def scores(self, settings: Settings) -> dict[str, float]:
        """Return the metric of every query; raises as `score` does."""
        run = self.run(settings)
        return {
            id_: evaluate_run({id_: grades}, {id_: run[id_]})[self._task.metric]
            for id_, grades in self._task.qrels.items()
        }

    def run(self, settings: Settings) -> dict[str, list[str]]:
        """Return query id -> text ids, best first, as many as the metric looks at."""
        cut, lexical = self._searched(settings)
        retriever = make_retriever(
            settings,
            embedder=lambda: cast(Any, self),
            tokens=cast(Any, self),
            dense=cast(Any, cut.dense),
            lexical=cast(Any, lexical),
            chunks_by_id=lambda ids: {id_: cut.chunks[id_] for id_ in ids},
            system=settings.system,
            reranker=self._reranker if settings.reranker != "none" else None,
        )
        texts = [query.text for query in self._task.queries]
        rankings = retriever.rank_many(texts, self._task.places)
        return {
            query.id: self._named(ranking, cut.names)
            for query, ranking in zip(self._task.queries, rankings, strict=True)
        }

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, 1) numbers of the queries, which is what `_Remembered` looks up."""
        return np.array([[self._row[text]] for text in texts], np.float32)

    def coverage(self, texts: Sequence[str]) -> FloatArray:
        """Return what the embedder can read of each text, as Tokens does."""
        return self._coverage[[self._row[text] for text in texts]]

    def _named(self, ranking: Ranking, names: Mapping[int, Sequence[str]]) -> list[str]:
        found: dict[str, None] = {}
        for id_, _ in ranking:
            # A passage that stands for no judged text takes a place all the same.
            found |= dict.fromkeys(names[id_] or [f" passage {id_}"])
            if len(found) >= self._task.places:
                break
        return list(found)[: self._task.places]

    def _kept_bytes(self) -> int:
        return sum(rankings.nbytes for rankings in self._lexical.values())

    def _searched(self, settings: Settings) -> tuple[_Cut, _Remembered]:
        """Return both indexes' rankings under these settings, searched now if they are new."""
        cut_key = settings.chunk_tokens, settings.chunk_overlap
        key = (*cut_key, settings.bm25_gram_weight)
        if key in self._lexical and cut_key in self._cuts:
            self._lexical.move_to_end(key)
            return self._cuts[cut_key], self._lexical[key]
        with self._open_for(settings) as opened:
            depth = self._task.depth
            if cut_key not in self._cuts:
                dense = opened.dense.refresh()
                self._cuts[cut_key] = _Cut(
                    _Remembered(self._row, self._vectors, lambda part: dense.search(part, depth))
                )
            cut = self._cuts[cut_key]
            index = opened.lexical.refresh()
            lexical = _Remembered(self._row, self._texts, lambda part: index.search(part, depth))
            new = (cut.dense.ids() | lexical.ids()) - cut.names.keys()
            for id_, chunk in opened.store.chunks(sorted(new)).items():
                cut.names[id_] = tuple(self._names_of(chunk))
                if self._reranker is not None:
                    cut.chunks[id_] = chunk
        self._lexical[key] = lexical
        while len(self._lexical) > 1 and self._kept_bytes() > _LEXICAL_BYTES:
            self._lexical.popitem(last=False)  # the one used longest ago
        return cut, lexical


class _Remembered:
    """Rankings of known queries; searches as the index did that they come from."""

    def __init__(
        self,
        row: Mapping[str, int],
        queries: Any,  # noqa: ANN401
        search: Callable[[Any], list[Ranking]],
    ) -> None:
        self._row = row
        self._found: list[tuple[IntArray, NDArray[np.float64]]] = []
        for first in range(0, len(queries), _QUERIES_AT_ONCE):
            for ranking in search(queries[first : first + _QUERIES_AT_ONCE]):
                ids = np.array([id_ for id_, _ in ranking], np.int64)
                self._found.append((ids, np.array([score for _, score in ranking], np.float64)))

    def __len__(self) -> int:
        return len(self._found)

    @property
    def nbytes(self) -> int:
        """Memory of the rankings, bytes."""
        return sum(ids.nbytes + scores.nbytes for ids, scores in self._found)

    def ids(self) -> set[int]:
        """Return every id of any ranking."""
        return set(np.concatenate([ids for ids, _ in self._found]).tolist()) if self else set()

    def search(
        self, queries: Sequence[str] | FloatArray, top_k: int, _allowed: None = None
    ) -> list[Ranking]:
        """Return the first `top_k` of each query's ranking; a query is its text or number."""
        rankings = []
        for query in queries:
            row = self._row[query] if isinstance(query, str) else int(query[0])
            ids, scores = self._found[row]
            rankings.append(list(zip(ids[:top_k].tolist(), scores[:top_k].tolist(), strict=True)))
        return rankings


class _RememberedReranker:
    """A reranker that reads each pair of query and passage once."""

    def __init__(self, inner: Any) -> None:  # noqa: ANN401
        self._inner = inner
        self._scores: dict[tuple[str, str], float] = {}

    def rerank(self, query: str, texts: Sequence[str]) -> FloatArray:
        """Return (n,) scores in the order of `texts`."""
        new = [text for text in dict.fromkeys(texts) if (query, text) not in self._scores]
        if new:
            scores = self._inner.rerank(query, new).tolist()
            self._scores |= {(query, text): s for text, s in zip(new, scores, strict=True)}
        return np.array([self._scores[query, text] for text in texts], np.float32)
