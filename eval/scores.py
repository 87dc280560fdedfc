"""Reads how a system did on each query: from a file of results, or a TREC run and its judgements.

    results     {"query": id, "metrics": {"nDCG@10": 0.5, ...}}, one object a line
    run         `query Q0 text rank score tag`, with judgements beside it
    judgements  qrels/<split>.tsv of a BEIR folder, or TREC's `query 0 text grade`

No value is made up: a missing metric, a value that is no number, NaN, a missing query is an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.jsonl import json_rows, read, shown
from eval.metrics import parse_metrics, query_values
from eval.qrels import grades as read_grades
from eval.qrels import judgements
from eval.trec import read_run
from rag.errors import EvalDataError

_LARGEST = 1e15
_RESULTS = 'Expected {"query": id, "metrics": {name: number}} on each line.'
_QRELS = "Expected qrels/<split>.tsv of a BEIR folder, or TREC's `query 0 text grade`."

Scores = Mapping[str, Mapping[str, float]]
"""Metric -> query id -> value."""


@dataclass(frozen=True, slots=True)
class System:
    """A system's values on each query.

    Attributes:
        name: The file's, as a table shows it.
        scores: Of the metrics asked for, over the same queries each.
        unjudged: Queries of a run that the judgements lack; they are not in `scores`.
    """

    name: str
    scores: Scores
    unjudged: int = 0


def read_results(paths: Sequence[Path], metrics: Sequence[str]) -> list[System]:
    """Read files of results.

    Args:
        paths: One a system.
        metrics: Names of the values to take; others are left alone.

    Raises:
        EvalDataError: If a file is not as expected, or a value is missing or not finite.
    """
    return [
        System(name, _results(path, metrics))
        for name, path in zip(_names(paths), paths, strict=True)
    ]


def read_runs(
    paths: Sequence[Path], qrels: Path, metrics: Sequence[str], *, missing_as_zero: bool = False
) -> list[System]:
    """Read TREC runs and score them over the judged queries: those with a grade above 0.

    Args:
        paths: One a system.
        qrels: The judgements.
        metrics: Names that `eval.metrics.parse_metrics` reads.
        missing_as_zero: Whether a judged query that a run lacks counts as one for which nothing
            was found, rather than as an error.

    Raises:
        PathError: If a run cannot be read.
        EvalDataError: If a file is not as expected, a metric is unknown, or a run lacks a query.
    """
    spelt = {name: parse_metrics(name)[0] for name in metrics}
    judged = read_grades(judgements(qrels))
    grades = {query: found for query, found in judged.items() if any(found.values())}
    if not grades:
        raise EvalDataError(f"{qrels} judges no text as relevant.", do=_QRELS)
    systems = []
    runs = [read_run(path) for path in paths]
    everywhere = set.intersection(*(set(run) for run in runs))
    for name, path, run in zip(_names(paths), paths, runs, strict=True):
        lacking = [] if missing_as_zero else sorted(grades.keys() - run.keys())
        if lacking:
            raise EvalDataError(
                f"{path} lacks {_some(lacking)} that {qrels} judges.",
                do="Give --missing-as-zero if nothing was found for them.",
            )
        alone = [] if missing_as_zero else sorted(run.keys() - everywhere - grades.keys())
        if alone:
            raise EvalDataError(
                f"{path} has {_some(alone)} that another run lacks.",
                do="Expected runs of the same queries.",
            )
        found = {query: run.get(query, []) for query in grades}
        by_query = query_values(grades, found, tuple(spelt.values()))
        scores = {
            metric: {query: values[spelt[metric]] for query, values in by_query.items()}
            for metric in metrics
        }
        systems.append(System(name, scores, unjudged=len(run.keys() - grades.keys())))
    return systems


def check_same_queries(systems: Sequence[System], metric: str) -> None:
    """Refuse systems that were not asked the same queries.

    Raises:
        EvalDataError: If they differ; it says in how many queries, and names some.
    """
    first = systems[0]
    for other in systems[1:]:
        for one, two in ((first, other), (other, first)):
            lacking = sorted(one.scores[metric].keys() - two.scores[metric].keys())
            if lacking:
                raise EvalDataError(
                    f"{two.name} lacks {_some(lacking)} that {one.name} has.",
                    do="Expected results over the same queries: their means would not compare.",
                )


def _results(path: Path, metrics: Sequence[str]) -> Scores:
    data = read(path, _RESULTS)
    if not data.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        raise EvalDataError(
            f"{path} is no file of results.", do=f"{_RESULTS} For a TREC run give --qrels FILE."
        )
    scores: dict[str, dict[str, float]] = {metric: {} for metric in metrics}
    for at, row in json_rows(path, data, "query"):
        values = row.get("metrics")
        if not isinstance(values, dict):
            raise EvalDataError(f"{at}: got metrics {shown(values)}.", do=_RESULTS)
        for metric in metrics:
            if metric not in values:
                has = ", ".join(sorted(map(str, values))) or "none"
                raise EvalDataError(
                    f"{at}: no {metric} for query {shown(row['query'])} (it has: {has}).",
                    do="Give --metric NAME of one that every query has.",
                )
            scores[metric][row["query"]] = _number(values[metric], f"{at}: {metric}")
    return scores


def _number(value: object, what: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) <= _LARGEST:  # type: ignore[arg-type]
        raise EvalDataError(f"{what} is {shown(value)}.", do="Expected a finite number.")
    made = float(value)  # type: ignore[arg-type]
    assert math.isfinite(made)
    return made


def _names(paths: Sequence[Path]) -> list[str]:
    """Return names that tell the files apart, as short as they can be."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _some(queries: Iterable[str]) -> str:
    ordered = list(queries)
    named = ", ".join(shown(query) for query in ordered[:5])
    noun = "query" if len(ordered) == 1 else "queries"
    return f"{len(ordered):,} {noun} ({named}{', ...' if len(ordered) > 5 else ''})"
