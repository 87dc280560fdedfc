"""Metrics: fractions worked by hand, queries that found nothing, and ties."""

from __future__ import annotations

from math import log2
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import METRICS, evaluate_run, explicit_scores

FILLER = [f"x{number}" for number in range(200)]


def test_worked_by_hand() -> None:
    """a: relevant at ranks 2 and 12 of 3; b: graded, at 1 and 3 in the wrong order."""
    qrels = {"a": {"a1": 1, "a2": 1, "a3": 1, "x0": 0}, "b": {"b1": 1, "b2": 3}}
    run = {
        "a": [FILLER[0], "a1", *FILLER[1:10], "a2", *FILLER[10:50]],
        "b": ["b1", FILLER[0], "b2"],
    }

    found = evaluate_run(qrels, run)

    ndcg_a = (1 / log2(3)) / (1 + 1 / log2(3) + 1 / log2(4))
    ndcg_b = (1 / log2(2) + 3 / log2(4)) / (3 / log2(2) + 1 / log2(3))
    assert found == pytest.approx(
        {
            "nDCG@10": (ndcg_a + ndcg_b) / 2,
            "recall@5": (1 / 3 + 1) / 2,
            "recall@10": (1 / 3 + 1) / 2,
            "recall@100": (2 / 3 + 1) / 2,
            "MRR@10": (1 / 2 + 1) / 2,
        }
    )
    assert tuple(found) == METRICS


def test_a_query_that_found_nothing_counts_as_nothing_found() -> None:
    """The trap: dividing by the queries in the run would say 1 for all three."""
    qrels = {"found": {"d": 1}, "empty": {"d": 1}, "absent": {"d": 1}, "wrong": {"d": 1}}
    run = {"found": ["d"], "empty": [], "wrong": ["e"]}

    assert evaluate_run(qrels, run) == dict.fromkeys(METRICS, 0.25)
    assert evaluate_run(qrels, {}) == dict.fromkeys(METRICS, 0.0)


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (5, {"recall@5": 1, "recall@10": 1, "recall@100": 1, "MRR@10": 1 / 5}),
        (6, {"recall@5": 0, "recall@10": 1, "recall@100": 1, "MRR@10": 1 / 6}),
        (10, {"recall@5": 0, "recall@10": 1, "recall@100": 1, "MRR@10": 1 / 10}),
        (11, {"recall@5": 0, "recall@10": 0, "recall@100": 1, "MRR@10": 0}),
        (100, {"recall@5": 0, "recall@10": 0, "recall@100": 1, "MRR@10": 0}),
        (101, {"recall@5": 0, "recall@10": 0, "recall@100": 0, "MRR@10": 0}),
    ],
)
def test_cut_offs(rank: int, expected: dict[str, float]) -> None:
    ranking = [*FILLER[: rank - 1], "d", *FILLER[rank:]]

    found = evaluate_run({"q": {"d": 1}}, {"q": ranking})

    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["nDCG@10"] == pytest.approx(1 / log2(rank + 1) if rank <= 10 else 0)


def reference(qrels: dict[str, dict[str, int]], run: dict[str, list[str]]) -> dict[str, float]:
    """The same from the definitions, slowly."""
    totals = dict.fromkeys(METRICS, 0.0)
    for query, grades in qrels.items():
        ranking = run.get(query, [])
        relevant = {text for text, grade in grades.items() if grade > 0}
        gains = [grades.get(text, 0) for text in ranking[:10]]
        best = sorted(grades.values(), reverse=True)[:10]
        dcg, ideal = (
            sum(gain / log2(rank + 1) for rank, gain in enumerate(order, start=1))
            for order in (gains, best)
        )
        totals["nDCG@10"] += dcg / ideal
        for depth in (5, 10, 100):
            totals[f"recall@{depth}"] += len(relevant & set(ranking[:depth])) / len(relevant)
        first = [rank for rank, gain in enumerate(gains, start=1) if gain > 0][:1]
        totals["MRR@10"] += 1 / first[0] if first else 0
    return {name: total / len(qrels) for name, total in totals.items()}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 150))
def test_equals_the_definitions(seed: int, queries: int, texts: int) -> None:
    random = Random(seed)
    pool = [f"d{number}" for number in range(texts)]
    qrels = {
        f"q{number}": {text: random.randint(0, 3) for text in pool[:40]} | {pool[0]: 1}
        for number in range(queries)
    }
    run = {
        query: random.sample(pool, random.randint(0, texts))
        for query in qrels
        if random.random() < 0.8
    }

    assert evaluate_run(qrels, run) == pytest.approx(reference(qrels, run))


def test_the_order_handed_over_is_the_order_measured() -> None:
    """With equal scores trec_eval would put d9 before d1: greater ids first."""
    ranking = [f"d{number}" for number in range(1, 10)]
    scores = explicit_scores(ranking)

    assert sorted(scores, key=lambda text: -scores[text]) == ranking
    assert len(set(scores.values())) == 9
    assert min(scores.values()) == 1
    assert evaluate_run({"q": {"d1": 1}}, {"q": ranking})["MRR@10"] == 1
    assert evaluate_run({"q": {"d9": 1}}, {"q": ranking})["MRR@10"] == pytest.approx(1 / 9)


def test_input_is_left_alone() -> None:
    qrels, run = {"q": {"d": 1}}, {"q": ["d"]}
    evaluate_run(qrels, run)
    assert (qrels, run) == ({"q": {"d": 1}}, {"q": ["d"]})


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats"):
        evaluate_run({"q": {"d": 1}}, {"q": ["d", "d"]})
    with pytest.raises(ValueError, match="not judged: 'r'"):
        evaluate_run({"q": {"d": 1}}, {"q": ["d"], "r": ["d"]})
    with pytest.raises(ValueError, match="no judged query"):
        evaluate_run({}, {})
