from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.fuse import FusionWeights, best_first, hybrid_fusion, reciprocal_rank_fusion
from rag.schema import Ranking

IDS = st.lists(st.integers(1, 40), unique=True, max_size=12)
HUNDREDTHS = st.integers(0, 100).map(lambda n: n / 128)


@st.composite
def rankings(draw: st.DrawFn, scores: st.SearchStrategy[float]) -> Ranking:
    ids = draw(IDS)
    return best_first(
        zip(ids, draw(st.lists(scores, min_size=len(ids), max_size=len(ids))), strict=True)
    )


def test_rrf_by_hand() -> None:
    found = reciprocal_rank_fusion([[7, 3, 9], [3, 5]])
    assert [id_ for id_, _ in found] == [3, 7, 5, 9]
    by_hand = [Fraction(1, 62) + Fraction(1, 61), Fraction(1, 61), Fraction(1, 62), Fraction(1, 63)]
    assert [score for _, score in found] == pytest.approx([float(score) for score in by_hand])


def test_rrf_ties_go_to_the_lower_id() -> None:
    assert [id_ for id_, _ in reciprocal_rank_fusion([[9, 4], [4, 9], [1]])] == [4, 9, 1]


def test_rrf_of_nothing() -> None:
    assert reciprocal_rank_fusion([]) == []
    assert reciprocal_rank_fusion([[], []]) == []


@pytest.mark.parametrize("k", [0, -60])
def test_rrf_refuses_k(k: int) -> None:
    with pytest.raises(ValueError, match="expected k > 0"):
        reciprocal_rank_fusion([[1]], k)


def test_repeated_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="repeats an id"):
        reciprocal_rank_fusion([[1, 2, 1]])
    with pytest.raises(ValueError, match="repeats an id"):
        hybrid_fusion([(1, 0.5), (1, 0.4)], [], 1.0)
    with pytest.raises(ValueError, match="repeats an id"):
        hybrid_fusion([], [(1, 0.5), (1, 0.4)], 1.0)


@given(st.lists(IDS, max_size=4), st.integers(1, 100))
def test_rrf_properties(lists: list[list[int]], k: int) -> None:
    found = reciprocal_rank_fusion(lists, k)
    assert {id_ for id_, _ in found} == {id_ for ids in lists for id_ in ids}
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= len(lists) / (k + 1) + 1e-12 for score in scores)
    assert dict(reciprocal_rank_fusion(lists[::-1], k)) == pytest.approx(dict(found))


@given(IDS)
def test_rrf_keeps_the_order_of_equal_rankings(ids: list[int]) -> None:
    assert [id_ for id_, _ in reciprocal_rank_fusion([ids, ids])] == ids


def test_hybrid_by_hand() -> None:
    # dense excesses 0.4, 0.2, 0: mean 0.2, so 2, 1 and 0 units; 0.4 a point of BM25
    found = hybrid_fusion([(1, 0.7), (2, 0.5), (3, 0.3)], [(3, 10.0), (2, 5.0), (4, 2.5)], 1.0)
    assert [id_ for id_, _ in found] == [3, 2, 1, 4]
    assert [score for _, score in found] == pytest.approx([4 / 14, 3 / 13, 2 / 12, 1 / 11])


def test_the_weights_of_hybrid_by_hand() -> None:
    sides = [(1, 0.7), (2, 0.5), (3, 0.3)], [(3, 10.0), (4, 2.5)]
    found = hybrid_fusion(*sides, 0.1, FusionWeights(bm25=0.2, least_coverage=0.5))
    # half of 2, 1 and 0 units; 0.2 a point of BM25
    assert [id_ for id_, _ in found] == [3, 1, 2, 4]
    assert [score for _, score in found] == pytest.approx([2 / 12, 1 / 11, 0.5 / 10.5, 0.5 / 10.5])
    assert hybrid_fusion(*sides, 1.0, FusionWeights(bm25=0.0))[0][0] == 1


def test_hybrid_trusts_the_embedder_as_far_as_it_reads() -> None:
    dense, lexical = [(1, 0.9), (2, 0.5), (3, 0.5)], [(2, 5.0)]
    assert hybrid_fusion(dense, lexical, 1.0)[0][0] == 1
    assert hybrid_fusion(dense, lexical, 0.5)[0][0] == 2
    assert hybrid_fusion(dense, lexical, 0.0)[0][0] == 2


def test_hybrid_without_a_side() -> None:
    assert hybrid_fusion([], [], 1.0) == []
    assert [id_ for id_, _ in hybrid_fusion([], [(5, 3.0), (2, 1.0)], 1.0)] == [5, 2]
    assert [id_ for id_, _ in hybrid_fusion([(5, 0.3), (2, 0.1)], [], 0.0)] == [5, 2]


def test_hybrid_of_equal_cosines_is_led_by_words() -> None:
    assert [id_ for id_, _ in hybrid_fusion([(1, 0.5), (2, 0.5)], [(2, 1.0)], 1.0)] == [2, 1]
    assert hybrid_fusion([(1, 0.5)], [], 1.0) == [(1, 0.0)]


@pytest.mark.parametrize("coverage", [-0.1, 1.1, float("nan")])
def test_hybrid_refuses_coverage(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage"):
        hybrid_fusion([], [], coverage)


@given(
    rankings(HUNDREDTHS), rankings(st.integers(1, 60).map(float)), st.sampled_from([0.0, 0.5, 1.0])
)
def test_hybrid_properties(dense: Ranking, lexical: Ranking, coverage: float) -> None:
    found = hybrid_fusion(dense, lexical, coverage)
    assert {id_ for id_, _ in found} == {id_ for id_, _ in [*dense, *lexical]}
    assert all(0 <= score < 1 for _, score in found)
    assert found == best_first(found)
    # an embedder whose cosines are squeezed into a narrow band counts the same
    squeezed = hybrid_fusion([(id_, 0.75 + cos / 4) for id_, cos in dense], lexical, coverage)
    assert dict(squeezed) == pytest.approx(dict(found))
    # what is at least as good on both sides is not behind
    cosine, bm25, fused = dict(dense), dict(lexical), dict(found)
    floor = min(cosine.values(), default=0.0)
    for one in fused:
        for other in fused:
            nearer = cosine.get(one, floor) >= cosine.get(other, floor)
            if nearer and bm25.get(one, 0.0) >= bm25.get(other, 0.0):
                assert fused[one] >= fused[other]
