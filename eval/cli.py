"""The commands that measure: `youju eval retrieval`. They parse arguments and print results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rag.terminal import Progress, print_json, print_table, progress_bar

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def measure() -> None:
    """Measure retrieval, answers and refusals."""


@app.command()
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


@app.command()
def answers(
    data: Annotated[
        Path,
        typer.Option("--data", show_default=False, help="BEIR folder with an answers.jsonl."),
    ],
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first questions.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count the answers that hold a right one.

    Asks a set's questions over all its passages.
    """
    from eval.answers import evaluate_answers, read_questions
    from eval.data import read_set
    from eval.retrieval import opened_set
    from rag.build import build_rag
    from rag.config import load_settings

    rag = build_rag(load_settings().settings)
    questions = read_questions(data, limit)
    with (
        progress_bar("Asking") as advance,
        opened_set(rag, read_set(data), advance) as opened,
    ):
        report = evaluate_answers(
            opened.ask,
            questions,
            lambda done: advance(Progress(done, len(questions))),
        )
    _print({"data": data.resolve().name, **report.to_json()}, as_json)


@app.command()
def refusal(
    qa: Annotated[
        Path, typer.Option("--qa", show_default=False, help="Questions with and without answer.")
    ],
    corpus: Annotated[
        Path, typer.Option("--corpus", show_default=False, help="Folder of their documents.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what is refused, rightly and wrongly.

    Asks questions with and without an answer of a folder of documents.
    """
    from tempfile import TemporaryDirectory

    from eval.answers import evaluate_refusal, read_qa
    from ingest.job import ingest_paths
    from rag.build import build_rag, in_folder
    from rag.config import load_settings
    from rag.errors import EvalDataError

    questions = read_qa(qa)
    settings = load_settings().settings
    with TemporaryDirectory() as folder, progress_bar("Asking") as advance:
        rag = in_folder(build_rag(settings), Path(folder))
        ingested = ingest_paths(rag, settings.store, [corpus], progress=advance)
        if ingested.rejected:
            worst = ingested.rejected[0]
            raise EvalDataError(
                f"{len(ingested.rejected)} of the corpus's files cannot be ingested, among them "
                f"{worst.name}: {worst.message}",
                do="Mend or remove them: figures over the rest would mislead.",
            )
        report = evaluate_refusal(
            rag.open(settings.store).ask,
            questions,
            lambda done: advance(Progress(done, len(questions))),
        )
        rag.db.close()
    _print({"qa": str(qa), **report.to_json()}, as_json)


def _print(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(values)
        return
    rows = [
        [name, ", ".join(value) if isinstance(value, list) else str(value)]
        for name, value in values.items()
    ]
    print_table(["measure", "value"], rows)
