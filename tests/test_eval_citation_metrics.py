from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.citation_metrics import (
    PassageCitations,
    SpanCitations,
    lies_in,
    passage_citations,
    span_citations,
    supported_share,
)
from rag.schema import Answer, Citation

TEXT = "The D40 weighs 185 kg. It was made in 1990. Oil it monthly."


def cited(start: int, end: int, file: str = "p1", text: str = TEXT) -> Citation:
    return Citation(file, None, start, end, text[start:end], 1.0)


def test_citations_count_that_lie_inside_gold_word_for_word() -> None:
    gold = {"p1": TEXT, "p2": "Other."}
    assert lies_in(cited(0, 22), gold)
    assert not lies_in(cited(0, 22, file="p3"), gold)
    assert not lies_in(Citation("p1", None, 0, 22, "x" * 22, 1.0), gold)
    assert not lies_in(Citation("p2", None, 0, 99, "Other.", 1.0), gold)
    assert not lies_in(Citation("p2", None, 3, 3, "", 1.0), gold)


def test_an_answer_is_scored_by_passage() -> None:
    answer = Answer(
        "It weighs 185 kg. [1] It was made on the moon. [2] Nobody knows.",
        refused=False,
        citations=(cited(0, 22), cited(23, 44), cited(0, 5, file="p9")),
        unsupported=("Nobody knows.",),
    )
    found = passage_citations(answer, {"p1": TEXT})
    assert found == PassageCitations(precision=2 / 3, recall=2 / 3, gold=1)
    assert passage_citations(Answer("Hm.", False), {"p1": TEXT}) == PassageCitations(0, 0, 0)
    assert passage_citations(answer, {"p7": TEXT}).gold == 0


@pytest.mark.parametrize(
    ("text", "unsupported", "expected"),
    [
        ("One thing. Two things. [1]", (), 1 / 2),  # a mark is its sentence's
        ("It was made in 1990. Oil it monthly. [1]", (), 1),  # quoted without a mark
        ("It was made [1].", (), 1),
        ("It was made [2].", (), 0),  # no such citation
        ("It was. Made in 1990.", (), 0),  # in the quote, but no sentence of it
        ("It was made [1].", ("It was made.",), 0),
        ("重量为185公斤。[1]未知。", ("未知。",), 1 / 2),
        ("", (), 0),
        ("…", (), 0),
    ],
)
def test_support_of_sentences(text: str, unsupported: tuple[str, ...], expected: float) -> None:
    answer = Answer(text, False, (cited(23, 59),), unsupported)
    assert supported_share(answer) == pytest.approx(expected)


def test_characters_against_evidence_by_hand() -> None:
    answer = Answer("x [1][2]", False, (cited(0, 10), cited(5, 20)))  # 20 characters in all
    found = span_citations(answer, "p1", [(15, 35), (40, 50)])  # 5 of 20 cited, 5 of 20 gold
    assert found == SpanCitations(0.25, 0.25, 0.25)
    assert span_citations(answer, "p2", [(0, 10)]) == SpanCitations(0, 0, 0)
    assert span_citations(Answer("x", False), "p1", [(0, 10)]) == SpanCitations(0, 0, 0)
    elsewhere = Answer("x", False, (cited(0, 10), cited(0, 10, file="p2")))
    assert span_citations(elsewhere, "p1", [(0, 10)]) == SpanCitations(0.5, 1.0, 2 / 3)
    for bad in ([], [(3, 3)]):
        with pytest.raises(ValueError, match="none empty"):
            span_citations(answer, "p1", bad)


SPANS = st.tuples(st.integers(0, 40), st.integers(1, 15)).map(lambda s: (s[0], s[0] + s[1]))


@settings(max_examples=50)
@given(st.lists(SPANS, max_size=4), st.lists(SPANS, min_size=1, max_size=3))
def test_evidence_scores_stay_in_range(
    places: list[tuple[int, int]], gold: list[tuple[int, int]]
) -> None:
    answer = Answer("x", False, tuple(cited(*place) for place in places))
    found = span_citations(answer, "p1", gold)
    assert 0 <= min(found.precision, found.recall) <= found.f1 + 1e-12
    assert found.f1 <= max(found.precision, found.recall) + 1e-12 <= 1 + 1e-9
