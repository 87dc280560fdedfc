"""Metrics: fractions worked by hand, queries that found nothing, and ties."""

from __future__ import annotations

from math import log2
from pathlib import Path
from random import Random

import pytest
import pytrec_eval
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.metrics import (
    METRICS,
    evaluate_run,
    explicit_scores,
    greatest_cut_off,
    parse_metrics,
    query_values,
)
from eval.run_scores import score_run
from rag.errors import EvalDataError, UsageError

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


# -- all metrics -----------------------------------------------------------------------------------

ALL = parse_metrics(
    "nDCG,nDCG@3,recall@3,precision@1,precision@3,precision@10,success@1,success@3,MRR,MRR@2,"
    "MAP,MAP@3,R-precision"
)


def test_every_metric_worked_by_hand() -> None:
    """Relevant: a (grade 2), b, c; the ranking has b at 2, a at 4, and lacks c."""
    qrels = {"q": {"a": 2, "b": 1, "c": 1, "x": 0}}

    found = query_values(qrels, {"q": ["x", "b", "y", "a", "z"]}, ALL)["q"]

    ideal = 2 + 1 / log2(3) + 1 / 2
    expected = {
        "nDCG": (1 / log2(3) + 2 / log2(5)) / ideal,
        "nDCG@3": (1 / log2(3)) / ideal,
        "recall@3": 1 / 3,
        "precision@1": 0,
        "precision@3": 1 / 3,
        "precision@10": 2 / 10,
        "success@1": 0,
        "success@3": 1,
        "MRR": 1 / 2,
        "MRR@2": 1 / 2,
        "MAP": (1 / 2 + 2 / 4) / 3,
        "MAP@3": (1 / 2) / 3,
        "R-precision": 1 / 3,
    }
    assert tuple(found) == ALL
    assert found == pytest.approx(expected, abs=1e-9)


def trec_eval(
    qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]
) -> dict[str, float]:
    """The same by trec_eval itself, a query that the run lacks counting as 0.

    Grades below 0 make pytrec_eval read beyond its memory: it gets 0 for them, which means the
    same to these metrics.
    """
    qrels = {query: {key: max(0, one) for key, one in row.items()} for query, row in qrels.items()}
    names = {
        "nDCG": "ndcg", "nDCG@3": "ndcg_cut_3", "recall@3": "recall_3", "precision@1": "P_1",
        "precision@3": "P_3", "precision@10": "P_10", "success@1": "success_1",
        "success@3": "success_3", "MRR": "recip_rank", "MAP": "map", "MAP@3": "map_cut_3",
        "R-precision": "Rprec",
    }  # fmt: skip
    asked = {
        "ndcg", "ndcg_cut.3", "recall.3", "P.1,3,10", "success.1,3", "recip_rank", "map",
        "map_cut.3", "Rprec",
    }  # fmt: skip
    found = pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(run)
    return {
        ours: sum(of_query[theirs] for of_query in found.values()) / len(qrels)
        for ours, theirs in names.items()
    }


IDS = st.sampled_from([f"d{number}" for number in range(12)] + ["é", "z", "Z", "文"])
QUERY_IDS = st.sampled_from(["q1", "q2", "q3", "问"])
SCORES = st.sampled_from([3.0, 2.0, 1.0, 1.00000001, 0.1, -1.5, 0.0])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(QUERY_IDS, st.dictionaries(IDS, st.integers(-2, 4), min_size=1), min_size=1),
    st.dictionaries(QUERY_IDS, st.dictionaries(IDS, SCORES, min_size=1), min_size=1),
    st.randoms(use_true_random=False),
)
def test_a_run_scores_as_by_trec_eval(
    tmp_path: Path,
    qrels: dict[str, dict[str, int]],
    run: dict[str, dict[str, float]],
    random: Random,
) -> None:
    """Ties, lines in any order, grades below 0, queries that only one side has."""
    lines = [f"{q} Q0 {text} 0 {score!r} t\n" for q in run for text, score in run[q].items()]
    random.shuffle(lines)
    (tmp_path / "run").write_text("".join(lines))
    judged = [f"{q} 0 {text} {grade}\n" for q in qrels for text, grade in qrels[q].items()]
    (tmp_path / "qrels").write_text("".join(judged))
    if not run.keys() & qrels.keys():
        with pytest.raises(EvalDataError, match="No query of"):
            score_run(tmp_path / "run", tmp_path / "qrels")
        return

    report = score_run(tmp_path / "run", tmp_path / "qrels", metrics=ALL)

    expected = trec_eval(qrels, run)
    assert {name: report.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert (report.queries, report.unjudged) == (len(qrels), len(run.keys() - qrels.keys()))
    assert report.missing == len(qrels.keys() - run.keys())


def test_finding_nothing_for_half_of_the_queries_halves_every_score() -> None:
    random = Random(3)
    pool = [f"d{number}" for number in range(30)]
    qrels, run = {}, {}
    for number in range(20):  # each query twice, so that both halves score the same
        grades = {text: random.randint(0, 2) for text in pool[:9]} | {pool[9]: 1}
        ranking = random.sample(pool, 25)
        for half in "ab":
            qrels[f"{half}{number}"], run[f"{half}{number}"] = grades, ranking
    whole = evaluate_run(qrels, run, ALL)

    absent = {query: ranking for query, ranking in run.items() if query[0] == "a"}
    empty = {query: ranking if query[0] == "a" else [] for query, ranking in run.items()}

    for kept in (absent, empty):
        found = evaluate_run(qrels, kept, ALL)
        assert found == pytest.approx({name: value / 2 for name, value in whole.items()}, abs=1e-12)


def test_names_of_metrics() -> None:
    assert parse_metrics("ndcg@10, Map,mrr@10,MAP , Success@1000,r-PRECISION") == (
        "nDCG@10", "MAP", "MRR@10", "success@1000", "R-precision",
    )  # fmt: skip
    assert parse_metrics(",".join(METRICS)) == METRICS
    assert (greatest_cut_off(ALL), greatest_cut_off(["MAP"])) == (10, 0)


@pytest.mark.parametrize(
    "name",
    ["", "hits@10", "nDCG@", "nDCG@0", "nDCG@1001", "nDCG@x", "nDCG@-1", "nDCG@²", "nDCG@1@2",
     "recall", "precision", "success", "R-precision@5", "nDCG@10,", "nDCG@" + "9" * 5000],
)  # fmt: skip
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="Got the metric"):
        parse_metrics(name)
