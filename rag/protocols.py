"""What the chain asks of its parts. Each protocol has one conformance suite in rag/testing.py.

Scores have one direction everywhere: higher is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from rag.schema import FloatArray, IntArray, Ranking


class Embedder(Protocol):
    """Turns text into unit vectors; queries and passages may get different prompts."""

    @property
    def fingerprint(self) -> str:
        """Model, revision, dimension, pooling, length and prompts: equal only if vectors are."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32, unit rows, in the order of `texts`; n may be 0."""
        ...

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32 in the same space, with the passages' own prompt."""
        ...


class Tokens(Protocol):
    """The embedder's view of text, available without loading its weights."""

    @property
    def max_tokens(self) -> int:
        """Tokens of one text the embedder reads (special tokens included); the rest is cut."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens not counted."""
        ...

    def coverage(self, texts: Sequence[str]) -> FloatArray:
        """Return (n,) float32 in [0, 1]: the share of each text the model can read.

        1 means every word is made of known pieces; an unknown token, or a character of a
        script for which the vocabulary holds only a few isolated characters, counts as unread.
        An empty text has coverage 1.
        """
        ...


class DenseIndex(Protocol):
    """Exact or approximate cosine search over vectors with integer ids."""

    def __len__(self) -> int:
        """Vectors held."""
        ...

    def add(self, ids: IntArray, vectors: FloatArray) -> None:
        """Add (n,) ids > 0 not yet present and their (n, dim) unit vectors."""
        ...

    def remove(self, ids: IntArray) -> int:
        """Remove those of `ids` that are present; return how many were."""
        ...

    def search(
        self, queries: FloatArray, top_k: int, allowed: IntArray | None = None
    ) -> list[Ranking]:
        """For each row of (q, dim) unit queries the min(top_k, len) nearest, cosine in [-1, 1].

        Given `allowed`, (n,) int64 ids that ascend strictly, the nearest among those: as if no
        other vector were there. Ids that the index does not hold are ignored; none allowed, none
        found.
        """
        ...


class LexicalIndex(Protocol):
    """BM25 over words."""

    def __len__(self) -> int:
        """Texts held."""
        ...

    def apply(self, add: Sequence[tuple[int, str]], remove: Sequence[int], seq: int) -> None:
        """Remove ids, add (id, text) pairs, and record `seq`, durably and all at once.

        Adding an id that is present replaces it; removing one that is absent does nothing: a
        change can be applied twice.
        """
        ...

    def reset(self) -> None:
        """Forget everything, durably; `seq` is 0 afterwards."""
        ...

    def compact(self) -> None:
        """Leave no trace of removed texts on disk."""
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep other writers, threads and processes, out for the length of a `with` block.

        `apply` and `reset` may be called inside; `seq` cannot change under the caller's feet.
        """
        ...

    @property
    def seq(self) -> int:
        """The sequence number recorded by the last `apply`; 0 when new."""
        ...

    def search(
        self, queries: Sequence[str], top_k: int, allowed: IntArray | None = None
    ) -> list[Ranking]:
        """For each query up to top_k texts that share a term with it, BM25 score > 0.

        Given `allowed`, (n,) int64 ids that ascend strictly, the best among those: the ranking of
        all texts, scores included, without the others. How rare a word is, is counted over the
        whole index. Ids that the index does not hold are ignored; none allowed, none found.
        """
        ...


@runtime_checkable
class Reranker(Protocol):
    """Scores passages against a query, reading both together."""

    def rerank(self, query: str, texts: Sequence[str]) -> FloatArray:
        """Return (n,) float32 in the order of `texts`; any range, higher is better."""
        ...
