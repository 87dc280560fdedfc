"""`youju eval answers` and `youju eval refusal`: parse arguments, print results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.terminal import Progress, complain, count, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from eval.answers import RefusalReport
    from rag.build import Rag
    from rag.terminal import Advance


def answers(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            show_default=False,
            help="BEIR folder with an answers.jsonl, or questions with evidence.",
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Of contains, exact_match, f1, rouge_l, bleu, citations, calibration, noise, "
            "integration, counterfactual, with commas; else all before noise.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first questions.")
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option("--noise", help="Shares of noise, with commas; else those of RGB's paper."),
    ] = None,
    passages: Annotated[
        int, typer.Option("--passages", min=1, max=100, help="Given with a question of RGB.")
    ] = 5,
    judge: Annotated[
        bool, typer.Option("--judge", help="Have the model at generator_url judge, too.")
    ] = False,
    per_question: Annotated[
        Path | None,
        typer.Option("--per-question", help="Write each question's result, JSON lines."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure answers against right ones.

    Asks a set's questions over all its passages, or of the passages given with them. A question
    that is refused or fails counts as wrong. A run that was killed goes on where it was.
    """
    from eval.answer_run import Wanted, evaluate, parse_metrics, parse_ratios
    from rag.build import build_rag
    from rag.config import load_settings

    wanted = Wanted(
        metrics=parse_metrics(metrics),
        limit=limit,
        ratios=parse_ratios(noise),
        passages=passages,
        per_question=per_question,
        judge=judge,
    )
    with progress_bar("Asking") as advance:
        found = evaluate(build_rag(load_settings().settings), data, wanted, advance)
    _tell(found.faults)
    _print(found.to_json(), as_json)


def refusal(
    qa: Annotated[
        Path | None,
        typer.Option("--qa", show_default=False, help="Questions with and without answer."),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option("--corpus", show_default=False, help="Folder of their documents."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="In their place: BEIR folder with an answers.jsonl."),
    ] = None,
    unanswerable: Annotated[
        Path | None,
        typer.Option("--unanswerable", help="Questions that its passages do not answer."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first questions of each kind.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what is refused, rightly and wrongly.

    Asks questions with and without an answer of a folder of documents (--qa, --corpus) or of a
    set's passages (--data, --unanswerable).
    """
    from rag.build import build_rag
    from rag.config import load_settings
    from rag.errors import UsageError

    rag = build_rag(load_settings().settings)
    with progress_bar("Asking") as advance:
        if qa and corpus and not data and not unanswerable:
            name = {"qa": str(qa)}
            report, faults = _refusal_of_documents(rag, qa, corpus, limit, advance)
        elif data and unanswerable and not qa and not corpus:
            name = {"data": data.resolve().name}
            report, faults = _refusal_of_set(rag, data, unanswerable, limit, advance)
        else:
            raise UsageError(
                "Which questions are to be asked of what is not clear.",
                do="Give --qa and --corpus, or --data and --unanswerable.",
            )
    _tell(faults)
    _print({**name, **report.to_json()}, as_json)


def _refusal_of_documents(
    rag: Rag, qa: Path, corpus: Path, limit: int | None, advance: Advance
) -> tuple[RefusalReport, list[str]]:
    from tempfile import TemporaryDirectory

    from eval.answers import ask_refusal, first_of_each, read_qa
    from eval.asking import evaluation_key, kept_answers
    from ingest.job import ingest_paths
    from rag.build import in_folder
    from rag.errors import EvalDataError

    questions = first_of_each(read_qa(qa), limit)
    documents = [path for path in [corpus, *corpus.rglob("*")] if path.is_file()]
    key = evaluation_key(rag.settings, [qa, *documents], rag.embedder.fingerprint)
    with kept_answers(rag.settings, key) as kept, TemporaryDirectory() as folder:
        beside = in_folder(rag, Path(folder))
        ingested = ingest_paths(beside, rag.settings.store, [corpus], progress=advance)
        if ingested.rejected:
            worst = ingested.rejected[0]
            raise EvalDataError(
                f"{len(ingested.rejected)} of the corpus's files cannot be ingested, among them "
                f"{worst.name}: {worst.message}",
                do="Mend or remove them: figures over the rest would mislead.",
            )
        found = ask_refusal(
            beside.open(rag.settings.store).ask,
            questions,
            kept=kept,
            progress=lambda done: advance(Progress(done, len(questions))),
        )
        beside.db.close()
    return found


def _refusal_of_set(
    rag: Rag, data: Path, unanswerable: Path, limit: int | None, advance: Advance
) -> tuple[RefusalReport, list[str]]:
    from eval.answers import ask_refusal, read_questions, read_unanswerable
    from eval.asking import evaluation_key, kept_answers
    from eval.data import read_set
    from eval.retrieval import opened_set

    questions = read_questions(data, limit) + read_unanswerable(unanswerable, limit)
    files = [*data.glob("*.jsonl"), *data.glob("qrels/*.tsv"), unanswerable]
    key = evaluation_key(rag.settings, files, rag.embedder.fingerprint)
    with (
        kept_answers(rag.settings, key) as kept,
        opened_set(rag, read_set(data), advance) as opened,
    ):
        return ask_refusal(
            opened.ask,
            questions,
            kept=kept,
            progress=lambda done: advance(Progress(done, len(questions))),
        )


def _tell(faults: list[str] | tuple[str, ...]) -> None:
    """Say on standard error that questions failed, and why."""
    if faults:
        more = f" ({count(len(faults), 'reason')}; the first is told)" if len(faults) > 1 else ""
        complain(f"Some questions failed and count as wrong{more}: {faults[0]}")


def _print(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(values)
        return
    print_table(["measure", "value"], [[name, value] for name, value in _flat(values)])


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield a line for each value; those of objects in objects and lists are named by their way."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for row in value:
                first, *rest = row.items()
                shown = ", ".join(f"{key} {item}" for key, item in rest)
                yield f"{before}{name} {first[0]} {first[1]}", shown
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{before}{name}", shown
