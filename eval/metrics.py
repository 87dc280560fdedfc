"""Retrieval metrics, computed by ir-measures (trec_eval underneath), over every judged query.

A query for which nothing was found counts as 0: the means divide by the judged queries, not by
those that the system answered. trec_eval orders a ranking by score, and equal scores by document
id; so that the order measured is the system's own, it is handed over as scores without ties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

METRICS = ("nDCG@10", "recall@5", "recall@10", "recall@100", "MRR@10")
"""Names, in the order in which they are reported; each in [0, 1], higher is better."""


def evaluate_run(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Return the mean of each metric over the judged queries.

    nDCG@10 (Jarvelin and Kekalainen 2002) with linear gain: the sum of grade / log2(rank + 1) over
    ranks 1 to 10, divided by that of the best order. recall@k: the share of the relevant texts
    (grade above 0) among the first k. MRR@10: 1 / rank of the first relevant text, 0 beyond 10.

    Args:
        qrels: Query id -> text id -> grade >= 0; every query is judged and counts.
        run: Query id -> text ids, best first. An absent query found nothing.

    Returns:
        Value by name, in the order of `METRICS`.

    Raises:
        ValueError: If no query is judged, a ranking repeats a text, or the run holds a query that
            is not judged.
    """
    if not qrels:
        raise ValueError("no judged query, expected at least one")
    strangers = run.keys() - qrels.keys()
    if strangers:
        raise ValueError(f"the run holds a query that is not judged: {min(strangers)!r}")
    import ir_measures

    measures = _measures()
    totals = dict.fromkeys(METRICS, 0.0)
    found = ir_measures.iter_calc(
        list(measures),
        {query: dict(grades) for query, grades in qrels.items()},
        {query: explicit_scores(ranking) for query, ranking in run.items()},
    )
    for metric in found:
        if metric.query_id in qrels:
            totals[measures[metric.measure]] += metric.value
    return {name: total / len(qrels) for name, total in totals.items()}


def explicit_scores(ranking: Sequence[str]) -> dict[str, float]:
    """Return scores that fall by 1 from rank to rank and end at 1, so that none are equal.

    Raises:
        ValueError: If an id repeats.
    """
    scores = {id_: float(len(ranking) - place) for place, id_ in enumerate(ranking)}
    if len(scores) != len(ranking):
        raise ValueError("a ranking repeats an id")
    return scores


def _measures() -> dict[Any, str]:
    from ir_measures import RR, R, nDCG

    names = {nDCG @ 10: "nDCG@10", RR @ 10: "MRR@10"}
    return names | {R @ depth: f"recall@{depth}" for depth in (5, 10, 100)}
