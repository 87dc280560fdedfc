"""`youju eval retrieval`: parses arguments, prints results."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rag.terminal import print_json, print_table, progress_bar, say

if TYPE_CHECKING:
    from eval.retrieval import RetrievalReport
    from eval.run_scores import RunReport

_LEFT_OUT = {
    "unjudged": "without judgements",
    "nothing_relevant": "with nothing relevant",
    "unanswerable": "without an answer",
}


def retrieval(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            show_default=False,
            help="A BEIR folder, SQuAD .json, a .csv or .jsonl of questions, TREC topics, or a "
            "data set's name on the hub.",
        ),
    ] = "",
    corpus: Annotated[
        Path | None,
        typer.Option("--corpus", help="For questions and topics: texts, or a folder of documents."),
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option("--qrels", help="Judgements for topics, or for --run.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a data set named on the hub.")
    ] = False,
    system: Annotated[
        Literal["hybrid", "dense", "bm25", "rrf"] | None,
        typer.Option("--system", help="How passages are found; else the setting `system`."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Judgements: qrels/SPLIT.tsv.")] = "test",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first judged queries.")
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            "--metrics",
            help="Any of nDCG, recall, precision, MRR, success, MAP with @k, and R-precision.",
        ),
    ] = "nDCG@10,recall@5,recall@10,recall@100,MRR@10",
    run: Annotated[
        Path | None, typer.Option("--run", help="Score this run in TREC format; with --qrels.")
    ] = None,
    save_run: Annotated[
        Path | None, typer.Option("--save-run", help="Also write the rankings, in TREC format.")
    ] = None,
    per_query: Annotated[
        Path | None,
        typer.Option("--per-query", help="Also write the metrics of each query, as JSON lines."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a system's rankings on a test set, or another system's run.

    Every judged query counts, found or not.
    """
    from eval.metrics import parse_metrics

    names = parse_metrics(metrics)
    if run is not None:
        if qrels is None or data or corpus or save_run or system or limit or download:
            raise typer.BadParameter("--run goes with --qrels, --metrics, --per-query and --json.")
        from eval.run_scores import score_run

        _print(score_run(run, qrels, metrics=names, per_query=per_query), as_json)
        return
    if not data:
        raise typer.BadParameter("give --data, or --run with --qrels.")
    from eval.formats import DataSource, read_data
    from eval.retrieval import evaluate_retrieval
    from ingest.job import max_file_bytes
    from rag.build import build_rag
    from rag.config import load_settings

    rag = build_rag(load_settings({"system": system}).settings)
    source = DataSource(data, split, limit, corpus, qrels, download, max_file_bytes(rag))
    with progress_bar("Evaluating") as advance:
        report = evaluate_retrieval(
            rag,
            read_data(source),
            metrics=names,
            run_file=save_run,
            per_query=per_query,
            progress=advance,
        )
    _print(report, as_json)


def _print(report: RetrievalReport | RunReport, as_json: bool) -> None:
    found = report.to_json()
    if as_json:
        print_json(found)
        return
    header = ["system", "data", "queries", *report.metrics]
    row = [report.system, report.data, str(report.queries)]
    row += [f"{value:.4f}" for value in report.metrics.values()]
    for name, value in _columns(report).items():
        header.append(name)
        row.append(value)
    print_table(header, [row])
    left_out: dict[str, Any] = found["left_out"]
    told = [f"{number:,} {_LEFT_OUT[why]}" for why, number in left_out.items() if number]
    if told:
        say(f"Queries left out: {', '.join(told)}.")


def _columns(report: RetrievalReport | RunReport) -> dict[str, str]:
    fields = asdict(report)
    if "missing" in fields:
        return {"missing": str(fields["missing"])}
    return {
        "seconds": f"{fields['seconds']:.1f}",
        "embedding": f"{fields['embedding_seconds']:.1f}",
        "median_ms": f"{fields['latency']['median_ms']:.1f}",
        "p95_ms": f"{fields['latency']['p95_ms']:.1f}",
        "dense_bytes": str(fields["index_bytes"]["dense"]),
        "lexical_bytes": str(fields["index_bytes"]["lexical"]),
    }
