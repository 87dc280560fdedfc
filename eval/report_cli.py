"""`youju eval report`: parses arguments, says where the report is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.terminal import print_json, print_table, progress_bar, say

if TYPE_CHECKING:
    from eval.report_data import Report
    from rag.retrieve import System


class SystemName(StrEnum):
    """How passages are found; typer takes a list of these."""

    HYBRID = "hybrid"
    DENSE = "dense"
    BM25 = "bm25"
    RRF = "rrf"


_DEFAULT = (SystemName.BM25, SystemName.DENSE, SystemName.HYBRID)


def report(
    data: Annotated[
        Path, typer.Option("--data", show_default=False, help="Folder in BEIR layout.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", show_default=False, help="FILE.html; FILE.md is written beside it."),
    ],
    system: Annotated[
        list[SystemName] | None,
        typer.Option("--system", help="Give it again for more; else bm25, dense, hybrid."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Judgements: qrels/SPLIT.tsv.")] = "test",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first judged queries.")
    ] = None,
    worst: Annotated[
        int, typer.Option("--worst", min=0, max=1000, help="Bad queries and answers shown.")
    ] = 10,
    no_answers: Annotated[
        bool, typer.Option("--no-answers", help="Ask no questions, even if the set has answers.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw of the queries timed.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Compare systems on a test set, in one HTML file and in Markdown.

    Figures, tables, the worst queries, and all that is needed to repeat it. What a system fails
    with is told in it, with exit status 1. Needs the extra `eval`.
    """
    import os

    from eval.report import check_out, write_report
    from eval.report_collect import Wanted, collect
    from eval.report_plots import check_installed
    from rag.build import build_rag
    from rag.config import load_settings

    check_installed()
    check_out(out)
    systems: tuple[System, ...] = tuple(dict.fromkeys(name.value for name in system or _DEFAULT))
    arguments = ["eval", "report", "--data", str(data.absolute()), "--out", str(out.absolute())]
    for name in systems:
        arguments += ["--system", name]
    arguments += ["--split", split, "--worst", str(worst), "--seed", str(seed)]
    arguments += ["--limit", str(limit)] if limit else []
    arguments += ["--no-answers"] if no_answers else []
    loaded = load_settings()
    with progress_bar("Evaluating") as advance:
        made = collect(
            build_rag(loaded.settings),
            loaded,
            Wanted(data, systems, split, limit, worst, not no_answers, seed),
            arguments=arguments,
            environ=os.environ,
            progress=advance,
        )
    write_report(out, made)
    _print(made, out, as_json)
    if len(made.measured) < len(made.systems) or (made.answers and made.answers.failure):
        raise typer.Exit(1)


def _print(made: Report, out: Path, as_json: bool) -> None:
    from eval.report import beside

    if as_json:
        print_json(_as_json(made, out))
        return
    for system in made.systems:
        if system.failure:
            say(f"{system.name} failed: {system.failure}")
    if made.best:
        print_table(
            ["system", "queries", *made.best.metrics],
            [
                [system.name, str(made.queries), *(f"{v:.4f}" for v in system.metrics.values())]
                for system in made.measured
            ],
        )
    answers = made.answers
    if answers:
        say(f"Answers: {answers.right:,} of {answers.questions:,} right.")
        if answers.failure:
            say(f"{answers.failed:,} questions failed: {answers.failure}")
    say(f"Wrote {out} and {beside(out)}.")


def _as_json(made: Report, out: Path) -> dict[str, Any]:
    from eval.report import beside

    answers = made.answers
    return {
        "html": str(out),
        "markdown": str(beside(out)),
        "data": made.data,
        "queries": made.queries,
        "systems": [
            {
                "system": system.name,
                "metrics": {name: round(value, 5) for name, value in system.metrics.items()},
                "failure": system.failure,
            }
            for system in made.systems
        ],
        "answers": answers
        and {
            "questions": answers.questions,
            "right": answers.right,
            "refused": answers.refused,
            "failed": answers.failed,
            "failure": answers.failure,
        },
    }
