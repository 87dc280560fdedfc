"""What the lexical index keeps in tantivy, and how it is searched.

The schema, its documents, and queries over one commit. Which folder it lies in, who may write and
when a commit is made is rag.index.lexical's business. Query text never reaches tantivy's parser.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rag.index.allowed import find
from rag.index.analyze import Terms, pairs
from rag.schema import IntArray, Ranking

if TYPE_CHECKING:
    import tantivy

GRAM_WEIGHT = 0.25
"""Weight of the BM25 score of Chinese character pairs beside that of words, by default."""

MAX_QUERY_TERMS = 128
"""Of more distinct terms those with the highest weight are searched."""

_SPARE = 8
"""So many hits more than wanted are fetched at first: mostly enough to see past a tie."""

MARKER = 0
"""Id of the document that records `seq` and `removed` where no passage can; it has no terms."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit as a reader sees it.

    Attributes:
        index, searcher: tantivy's.
        stamp: Identity of the commit's file, to notice the next one.
        seq: The sequence number it records.
        marker: 1 if the marker document is there, else 0.
        removed: Documents removed since the last rewrite.
    """

    index: tantivy.Index
    searcher: tantivy.Searcher
    stamp: tuple[int, int, int]
    seq: int
    marker: int
    removed: int

    @property
    def passages(self) -> int:
        """Passages that can be found."""
        return int(self.searcher.num_docs) - self.marker

    @classmethod
    def read(cls, index: tantivy.Index, stamp: tuple[int, int, int]) -> Commit:
        """Read the newest commit of an opened index.

        Raises:
            ValueError: If a file is missing or damaged in a way that shows.
        """
        import tantivy

        searcher = index.searcher()
        for field in ("words", "grams"):  # reveals files that opening does not look at
            searcher.search(tantivy.Query.term_query(index.schema, field, "x", "freq"), 1)
        newest = searcher.search(
            tantivy.Query.all_query(), 1, count=False, order_by_field="seq"
        ).hits
        marker = searcher.search(tantivy.Query.term_query(index.schema, "id", MARKER), 1).hits
        removed = searcher.fast_field_values("removed", [address for _, address in marker])
        return cls(
            index,
            searcher,
            stamp,
            seq=newest[0][0] if newest else 0,
            marker=len(marker),
            removed=removed[0] if removed else 0,
        )

    def present(self, ids: Iterable[int]) -> set[int]:
        """Return those of `ids` that are passages of this commit."""
        import tantivy

        wanted = sorted(set(ids) - {MARKER})
        if not wanted or not self.passages:
            return set()
        query = tantivy.Query.term_set_query(self.index.schema, "id", wanted)
        return set(self._ids(query, len(wanted)))

    def stored(self) -> Iterator[tuple[int, Terms]]:
        """Yield every passage: its id and terms."""
        import tantivy

        hits = self.searcher.search(
            tantivy.Query.all_query(), max(self.searcher.num_docs, 1), count=False
        ).hits
        addresses = [address for _, address in hits]
        ids = self.searcher.fast_field_values("id", addresses)
        for id_, address in zip(ids, addresses, strict=True):
            if id_ != MARKER:
                source = bytes(self.searcher.doc(address).get_first("source")).decode()
                words, runs = source.split("\n")
                yield id_, Terms(words.split(), runs.split())

    def search(
        self,
        terms: Terms,
        top_k: int,
        allowed: IntArray | None = None,
        gram_weight: float = GRAM_WEIGHT,
    ) -> Ranking:
        """Return up to `top_k` passages by BM25, best first, ties by id.

        Scores are rounded to 4 decimals, so that sums made in another order are ties; where the
        last place is tied, all that tie for it are fetched to find the lowest ids.

        Args:
            terms: Of the query.
            top_k: >= 1.
            allowed: None, or (n,) int64 ids, n >= 1, that ascend strictly: only those are
                returned. Their scores are those that they have without it.
            gram_weight: Of character pairs beside words, >= 0; 0: they find nothing.
        """
        query = self._query(terms, gram_weight)
        if query is None:
            return []
        fetch = top_k + _SPARE
        if allowed is None:
            return self._best(query, top_k, fetch)
        # A hit fetched and thrown away costs about what an id in a set does. So if the set is
        # large, hits are fetched until enough are allowed, but not more than it has ids.
        fetch = max(fetch, 2 * fetch * self.passages // len(allowed))
        while fetch <= len(allowed):
            found, exact = self._fetched(query, top_k, fetch, allowed)
            if exact:
                return found
            fetch *= 4
        return self._best(self._confined(query, allowed), top_k, top_k + _SPARE)

    def _best(self, query: tantivy.Query, top_k: int, fetch: int) -> Ranking:
        """Fetch hits, ever more, until the first `top_k` are certain."""
        while True:
            found, exact = self._fetched(query, top_k, fetch)
            if exact:
                return found
            fetch *= 4

    def _fetched(
        self, query: tantivy.Query, top_k: int, fetch: int, allowed: IntArray | None = None
    ) -> tuple[Ranking, bool]:
        """Rank the allowed ones of the first `fetch` hits.

        Returns:
            Up to `top_k` of them, and whether they are the best of all: not if fewer were found
            although there are more hits, or if the next hit may tie with the last one.
        """
        hits = self.searcher.search(query, fetch, count=False).hits
        scores = [round(score, 4) for score, _ in hits]
        ids = self.searcher.fast_field_values("id", [address for _, address in hits])
        found = list(zip(ids, scores, strict=True))
        if allowed is not None:
            kept, _ = find(np.array(ids, np.int64), allowed)
            found = [found[place] for place in np.flatnonzero(kept)]
        found.sort(key=lambda hit: (-hit[1], hit[0]))
        exact = len(hits) < fetch or (len(found) >= top_k and scores[-1] < found[top_k - 1][1])
        return [hit for hit in found[:top_k] if hit[1] > 0], exact

    def _confined(self, query: tantivy.Query, allowed: IntArray) -> tantivy.Query:
        """Return a query for the hits of `query` that are allowed, with the same scores."""
        import tantivy

        among = tantivy.Query.term_set_query(self.index.schema, "id", allowed.tolist())
        silent = tantivy.Query.const_score_query(among, 0.0)
        return tantivy.Query.boolean_query(
            [(tantivy.Occur.Must, query), (tantivy.Occur.Must, silent)]
        )

    def _query(self, terms: Terms, gram_weight: float) -> tantivy.Query | None:
        """Return a query for those terms that the commit knows; None if it knows none."""
        import tantivy

        clauses: list[tuple[float, str, tantivy.Query]] = []  # weight, term, query
        grams = dict.fromkeys(gram for gram in terms.grams if len(gram) == 2 and gram_weight)
        for field, boost, known in (("words", 1.0, terms.words), ("grams", gram_weight, grams)):
            for term in known:
                frequency = self.searcher.doc_freq(field, term)
                if frequency:
                    query = tantivy.Query.term_query(self.index.schema, field, term, "freq")
                    if boost != 1.0:
                        query = tantivy.Query.boost_query(query, boost)
                    clauses.append((boost * self._idf(frequency), term, query))
        for character in terms.runs:
            if len(character) == 1 and gram_weight:
                clauses += self._holding(character, gram_weight)
        if not clauses:
            return None
        clauses.sort(key=lambda clause: (-clause[0], clause[1]))
        return tantivy.Query.boolean_query(
            [(tantivy.Occur.Should, query) for _, _, query in clauses[:MAX_QUERY_TERMS]]
        )

    def _holding(
        self, character: str, gram_weight: float
    ) -> Iterator[tuple[float, str, tantivy.Query]]:
        """Yield a clause for the passages that hold a Chinese character, in whatever word."""
        import tantivy

        found = self.searcher.terms_with_prefix("grams", character, limit=MAX_QUERY_TERMS)
        if found:
            frequency = min(sum(number for _, number in found), self.passages)
            weight = gram_weight * self._idf(frequency)
            grams = [gram for gram, _ in found]
            query = tantivy.Query.term_set_query(self.index.schema, "grams", grams)
            yield weight, character, tantivy.Query.const_score_query(query, weight)

    def _idf(self, frequency: int) -> float:
        """Return ln(1 + (N - n + 0.5) / (n + 0.5)) for a term that n of N passages hold; > 0."""
        return math.log1p((max(self.passages - frequency, 0) + 0.5) / (frequency + 0.5))

    def _ids(self, query: tantivy.Query, limit: int) -> list[int]:
        hits = self.searcher.search(query, limit, count=False).hits
        return list(self.searcher.fast_field_values("id", [address for _, address in hits]))


def schema() -> tantivy.Schema:
    """Return the fields of a document."""
    import tantivy

    builder = tantivy.SchemaBuilder()
    # Signed: delete_documents_by_term finds nothing in an unsigned field.
    for name in ("id", "seq", "removed"):
        builder.add_integer_field(name, indexed=name == "id", fast=True)
    for name in ("words", "grams"):
        builder.add_text_field(name, tokenizer_name="whitespace", index_option="freq")
    builder.add_bytes_field("source", stored=True)  # what a rewrite needs
    return builder.build()


def add_passage(writer: tantivy.IndexWriter, id_: int, seq: int, terms: Terms) -> None:
    """Add a passage that the change numbered `seq` brought or rewrote."""
    _add(writer, id_, seq, 0, terms)


def add_marker(writer: tantivy.IndexWriter, seq: int, removed: int) -> None:
    """Record `seq` and `removed` without a passage."""
    _add(writer, MARKER, seq, removed, Terms([], []))


def _add(writer: tantivy.IndexWriter, id_: int, seq: int, removed: int, terms: Terms) -> None:
    import tantivy

    words = " ".join(terms.words)
    document = tantivy.Document()
    document.add_integer("id", id_)
    document.add_integer("seq", seq)
    document.add_integer("removed", removed)
    document.add_text("words", words)
    document.add_text("grams", " ".join(pairs(terms.runs)))
    document.add_bytes("source", f"{words}\n{' '.join(terms.runs)}".encode())
    writer.add_document(document)
