"""Scores a run that any system wrote, in TREC format, against judgements.

Every query of the judgements counts, one that the run lacks with 0, as of `trec_eval -c`; queries
without judgements are left out, and texts without judgements are not relevant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.files import check_writable
from eval.metrics import METRICS, means, query_values
from eval.qrels import grades, judgements
from eval.retrieval import write_per_query
from eval.trec import read_tagged_run
from rag.errors import EvalDataError


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run scored.

    Attributes:
        system: The run's tag.
        data: Name of the file of judgements.
        queries: Judged queries, all of which count.
        metrics: Mean by name, in the order asked for, each in [0, 1].
        missing: Judged queries that the run lacks.
        nothing_relevant: Judged queries that have no relevant text; they count as 0.
        unjudged: Queries of the run without judgements, left out.
    """

    system: str
    data: str
    queries: int
    metrics: dict[str, float]
    missing: int
    nothing_relevant: int
    unjudged: int

    def to_json(self) -> dict[str, Any]:
        """Return what `youju eval retrieval --run --json` prints: part of the interface."""
        return {
            "system": self.system,
            "data": self.data,
            "queries": self.queries,
            "metrics": self.metrics,
            "missing": self.missing,
            "nothing_relevant": self.nothing_relevant,
            "left_out": {"unjudged": self.unjudged},
        }


def score_run(
    run_path: Path,
    qrels_path: Path,
    *,
    metrics: Sequence[str] = METRICS,
    per_query: Path | None = None,
) -> RunReport:
    """Score a run.

    Args:
        run_path: `query Q0 text rank score tag` a line; its order is the scores', equal ones by
            id from the greatest down, wherever the lines stand.
        qrels_path: TREC's or BEIR's judgements.
        metrics: What is reported; see eval.metrics.
        per_query: Where the metrics of each query go, one JSON object a line.

    Raises:
        EvalDataError: If a file is not as expected, or no query of the run is judged.
        PathError: If a file cannot be read or written.
    """
    if per_query is not None:
        check_writable(per_query)
    qrels = grades(judgements(qrels_path))
    run = read_tagged_run(run_path)
    judged = {query: found for query, found in run.rankings.items() if query in qrels}
    if run.rankings and not judged:
        raise EvalDataError(
            f"No query of {run_path} is judged in {qrels_path}.",
            do="Expected the same query ids in both.",
        )
    values = query_values(qrels, judged, metrics)
    if per_query is not None:
        write_per_query(per_query, values, qrels, judged)
    return RunReport(
        system=run.tag,
        data=qrels_path.name,
        queries=len(qrels),
        metrics=means(values),
        missing=len(qrels) - len(judged),
        nothing_relevant=sum(not any(of_query.values()) for of_query in qrels.values()),
        unjudged=len(run.rankings) - len(judged),
    )
