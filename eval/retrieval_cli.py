"""`youju eval retrieval`: parses arguments, prints results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rag.terminal import print_json, print_table, progress_bar


def retrieval(
    data: Annotated[
        Path, typer.Option("--data", show_default=False, help="Folder in BEIR layout.")
    ],
    system: Annotated[
        Literal["hybrid", "dense", "bm25", "rrf"] | None,
        typer.Option("--system", help="How passages are found; else the setting `system`."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Judgements: qrels/SPLIT.tsv.")] = "test",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first judged queries.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Also write the rankings, in TREC format.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a system's rankings on a test set.

    nDCG@10, recall@5, @10, @100 and MRR@10; every judged query counts, found or not.
    """
    from eval.retrieval import evaluate_retrieval
    from rag.build import build_rag
    from rag.config import load_settings

    rag = build_rag(load_settings({"system": system}).settings)
    with progress_bar("Evaluating") as advance:
        report = evaluate_retrieval(
            rag, data, split=split, limit=limit, run_file=run, progress=advance
        )
    if as_json:
        print_json(report.to_json())
        return
    print_table(
        ["system", "data", "queries", *report.metrics, "seconds"],
        [
            [
                report.system,
                report.data,
                str(report.queries),
                *(f"{value:.4f}" for value in report.metrics.values()),
                f"{report.seconds:.1f}",
            ]
        ],
    )
