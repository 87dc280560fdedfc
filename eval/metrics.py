"""Retrieval metrics, computed by ir-measures (trec_eval underneath), over every judged query.

A query for which nothing was found counts as 0: the means divide by the judged queries, not by
those that the system answered. trec_eval orders a ranking by score, and equal scores by document
id; so that the order measured is the system's own, it is handed over as scores without ties.

- nDCG@k (Jarvelin and Kekalainen 2002), linear gain: the sum of grade / log2(rank + 1) over ranks
  1 to k, divided by that of the best order.
- recall@k: the share of the relevant texts (grade above 0) among the first k; precision@k: the
  share of k that is relevant; success@k: 1 if any of the first k is relevant, else 0.
- MRR@k: 1 / rank of the first relevant text, 0 beyond k.
- MAP: the mean, over the relevant texts, of the precision at the rank of each, 0 for one that the
  ranking lacks.
- R-precision: the share of relevant ones among the first R, R being how many are relevant.

nDCG, MRR and MAP without @k look at the whole ranking; MAP@k at its first k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rag.errors import UsageError

METRICS = ("nDCG@10", "recall@5", "recall@10", "recall@100", "MRR@10")
"""Those reported where none are chosen, in this order; each in [0, 1], higher is better."""

MAX_CUT_OFF = 1000

_MEASURES = {
    "ndcg": ("nDCG", "nDCG"),
    "recall": ("recall", "R"),
    "precision": ("precision", "P"),
    "success": ("success", "Success"),
    "mrr": ("MRR", "RR"),
    "map": ("MAP", "AP"),
    "r-precision": ("R-precision", "Rprec"),
}
"""Name in lower case -> our spelling, the name in ir-measures."""

_CUT_NEEDED = frozenset({"recall", "precision", "success"})
_CUT_REFUSED = frozenset({"r-precision"})

Grades = Mapping[str, Mapping[str, int]]


def parse_metrics(text: str) -> tuple[str, ...]:
    """Return the metrics that a list names, spelt as in the reports, each once.

    Args:
        text: Names with commas between, in any case, such as "ndcg@10, MAP".

    Raises:
        UsageError: If a name is unknown, or its cut-off missing, needless or out of range.
    """
    return tuple(dict.fromkeys(_spelt(part.strip()) for part in text.split(",")))


def greatest_cut_off(metrics: Sequence[str]) -> int:
    """Return how deep a ranking must be for all cut-offs; 0 if there is none."""
    return max((_parts(name)[1] or 0 for name in metrics), default=0)


def evaluate_run(
    qrels: Grades, run: Mapping[str, Sequence[str]], metrics: Sequence[str] = METRICS
) -> dict[str, float]:
    """Return the mean of each metric over the judged queries.

    Args:
        qrels: Query id -> text id -> grade >= 0; every query is judged and counts.
        run: Query id -> text ids, best first. An absent query found nothing.
        metrics: Names, as `parse_metrics` returns them.

    Returns:
        Value by name, in the order of `metrics`.

    Raises:
        ValueError: If no query is judged, a ranking repeats a text, or the run holds a query that
            is not judged.
    """
    return means(query_values(qrels, run, metrics))


def means(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over all queries, of which there is at least one."""
    names = next(iter(values.values()))
    return {
        name: sum(of_query[name] for of_query in values.values()) / len(values) for name in names
    }


def query_values(
    qrels: Grades, run: Mapping[str, Sequence[str]], metrics: Sequence[str] = METRICS
) -> dict[str, dict[str, float]]:
    """Return each metric of each judged query, in the order of `qrels`; see `evaluate_run`."""
    if not qrels:
        raise ValueError("no judged query, expected at least one")
    strangers = run.keys() - qrels.keys()
    if strangers:
        raise ValueError(f"the run holds a query that is not judged: {min(strangers)!r}")
    import ir_measures

    measures = {_measure(name): name for name in metrics}
    values = {query: dict.fromkeys(metrics, 0.0) for query in qrels}
    found = ir_measures.iter_calc(
        list(measures),
        {query: dict(grades) for query, grades in qrels.items()},
        {query: explicit_scores(ranking) for query, ranking in run.items()},
    )
    for metric in found:
        if metric.query_id in values:
            values[metric.query_id][measures[metric.measure]] = float(metric.value)
    return values


def explicit_scores(ranking: Sequence[str]) -> dict[str, float]:
    """Return scores that fall by 1 from rank to rank and end at 1, so that none are equal.

    Raises:
        ValueError: If an id repeats.
    """
    scores = {id_: float(len(ranking) - place) for place, id_ in enumerate(ranking)}
    if len(scores) != len(ranking):
        raise ValueError("a ranking repeats an id")
    return scores


def _spelt(text: str) -> str:
    name, cut = _parts(text)
    if (
        name not in _MEASURES
        or (cut is None and ("@" in text or name in _CUT_NEEDED))
        or (cut is not None and (name in _CUT_REFUSED or not 1 <= cut <= MAX_CUT_OFF))
    ):
        raise UsageError(
            f"Got the metric {text!r:.80}.",
            do="Expected nDCG@k, recall@k, precision@k, success@k, MRR@k, MAP@k, nDCG, MRR, MAP or "
            f"R-precision, k from 1 to {MAX_CUT_OFF}, with commas between.",
        )
    ours = _MEASURES[name][0]
    return ours if cut is None else f"{ours}@{cut}"


def _parts(text: str) -> tuple[str, int | None]:
    """Return name in lower case and cut-off; None where there is none or it is no number."""
    name, _, cut = text.partition("@")
    number = int(cut) if cut.isascii() and cut.isdigit() and len(cut) < 6 else None
    return name.lower(), number


def _measure(name: str) -> Any:  # noqa: ANN401
    import ir_measures

    kind, cut = _parts(name)
    measure = getattr(ir_measures, _MEASURES[kind][1])
    return measure if cut is None else measure @ cut
