"""Passages widened within their sections: exact, bounded, merged where they meet."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_samples import DIM, make_store

from rag.build import build_rag
from rag.config import Settings
from rag.expand import Around, expand_hits
from rag.schema import Chunk, Document, Hit, Passage, Span
from rag.store.changelog import NewDocument
from rag.store.database import Database
from rag.store.surroundings import Surroundings

WORDS = 4  # of a chunk


def count(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


TEXT = " ".join(f"w{number:03}" for number in range(80))
SPANS = [(place * WORDS * 5, place * WORDS * 5 + WORDS * 5 - 1) for place in range(20)]


def hit(place: int, score: float = 1.0) -> Hit:
    start, end = SPANS[place]
    return Hit(Chunk(place + 1, "a.txt", start, end, TEXT[start:end], "Title", 1), score)


def around(low: int, high: int) -> Around:
    inside = tuple(span for span in SPANS if low <= span[0] and span[1] <= high)
    return Around(7, low, TEXT[low:high], inside, ((0, 1), (200, 2)))


def widened(hits: list[Hit], tokens: int, budget: int = 10_000, low: int = 0) -> list[Hit]:
    return expand_hits(
        hits,
        around=lambda chunk, reach: around(max(low, chunk.start - reach), chunk.end + reach),
        count_tokens=count,
        tokens=tokens,
        budget=budget,
    )


def test_a_passage_grows_by_whole_chunks_behind_and_before() -> None:
    (one,) = widened([hit(10)], 13)
    assert (one.chunk.start, one.chunk.end) == (SPANS[9][0], SPANS[12][1])
    assert one.chunk.text == TEXT[one.chunk.start : one.chunk.end]
    assert (one.chunk.id, one.chunk.context) == (11, "Title")
    assert widened([hit(10)], 3) == [hit(10)]


def test_a_passage_does_not_leave_its_section() -> None:
    (one,) = widened([hit(10)], 9, low=SPANS[10][0])
    assert (one.chunk.start, one.chunk.end) == (SPANS[10][0], SPANS[12][1])


def test_passages_that_meet_become_one_and_the_page_is_that_of_the_start() -> None:
    found = [hit(12, 0.9), hit(3, 0.5), hit(10, 0.4)]
    first, second = widened(found, 8)
    assert (first.chunk.id, first.score) == (13, 0.9)
    assert (first.chunk.start, first.chunk.end) == (SPANS[9][0], SPANS[13][1])
    assert first.chunk.text == TEXT[first.chunk.start : first.chunk.end]
    assert first.chunk.page == 1
    assert second.chunk.id == 4


def test_the_budget_is_spent_best_first_and_nothing_found_is_cut() -> None:
    first, second = widened([hit(5), hit(15)], 8, budget=12)
    assert count([first.chunk.text, second.chunk.text]) == [8, 4]
    assert widened([hit(5), hit(15)], 8, budget=1) == [hit(5), hit(15)]


def test_a_chunk_that_is_gone_stays_as_it_was_found() -> None:
    made = expand_hits([hit(2)], around=lambda *_: None, count_tokens=count, tokens=9, budget=99)
    assert made == [hit(2)]


@given(
    st.lists(st.integers(0, 19), min_size=1, max_size=8, unique=True),
    st.integers(0, 60),
    st.integers(0, 200),
)
def test_widened_passages_are_exact_apart_and_hold_what_was_found(
    places: list[int], tokens: int, budget: int
) -> None:
    made = widened([hit(place) for place in places], tokens, budget)
    ids = [one.chunk.id for one in made]
    assert ids == [place + 1 for place in places if place + 1 in ids]
    for one in made:
        assert one.chunk.text == TEXT[one.chunk.start : one.chunk.end]
    ordered = sorted(made, key=lambda one: one.chunk.start)
    for before, after in pairwise(ordered):
        assert before.chunk.end <= after.chunk.start
    for place in places:
        start, end = SPANS[place]
        assert any(one.chunk.start <= start and end <= one.chunk.end for one in made)
    total = sum(count([one.chunk.text for one in made]))
    assert total <= max(budget, WORDS * len(places))


@pytest.mark.parametrize(
    ("place", "low", "high"),
    [(0, 0, 10), (1, 10, 30), (2, 10, 30), (3, 30, 40)],
)
def test_the_database_tells_the_section_around_a_chunk(
    tmp_path: Path, place: int, low: int, high: int
) -> None:
    text = "水" * 10 + "a" * 20 + "😀" * 10
    cuts = [(0, 10), (10, 20), (20, 30), (30, 40)]
    with closing(Database(f"sqlite:///{tmp_path / 'x.db'}")) as db:
        store = make_store(db)
        vectors = np.zeros((4, DIM), np.float32)
        vectors[:, 0] = 1
        document = Document(text, pages=(Span(0, 40, "3"),), sections=(Span(10, 30, "A"),))
        passages = [Passage(start, end, text[start:end]) for start, end in cuts]
        store.commit([NewDocument("a", "", "0" * 64, 1, document, passages, vectors)])
        chunks = store.chunks(range(1, 5))
        chunk = next(chunk for chunk in chunks.values() if chunk.start == cuts[place][0])
        found = Surroundings(db).around(chunk, 1000)
        assert found is not None
        assert found.text == text[low:high]
        assert found.start == low
        assert found.chunks == tuple(span for span in cuts if low <= span[0] and span[1] <= high)
        assert found.pages == ((0, 3),)
        near = Surroundings(db).around(chunk, 0)
        assert near is not None
        assert near.text == chunk.text
        store.delete(["a"])
        assert Surroundings(db).around(chunk, 0) is None


def test_an_answer_from_widened_passages_cites_exact_characters(samples_home: Path) -> None:
    rag = build_rag(Settings(home=samples_home, store="samples", context_expansion=300))
    opened = rag.open("samples")
    hits = opened.search("Who is supposed to use the yellow locks?")
    wide = rag.expand(hits)
    assert sum(len(one.chunk.text) for one in wide) > sum(len(one.chunk.text) for one in hits)
    for one in wide:
        text = opened.store.document(one.chunk.file).text
        assert one.chunk.text == text[one.chunk.start : one.chunk.end]
    answer = opened.ask("Who is supposed to use the yellow locks?")
    assert "ontractors" in answer.text
    for cited in answer.citations:
        text = opened.store.document(cited.file).text
        assert text[cited.start : cited.end] == cited.quote
    assert build_rag(Settings(home=samples_home)).expand(hits) == hits
