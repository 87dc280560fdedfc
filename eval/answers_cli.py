"""`youju eval answers` and `youju eval refusal`: parse arguments, print results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rag.terminal import Progress, print_json, print_table, progress_bar


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
