"""`youju eval tune`: parses arguments, prints results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag.terminal import count, print_json, print_table, progress_bar, say

if TYPE_CHECKING:
    from eval.tune_report import TuneReport


def tune(
    data: Annotated[
        Path, typer.Option("--data", show_default=False, help="Folder in BEIR layout.")
    ],
    corpus: Annotated[
        Path | None,
        typer.Option("--corpus", help="Documents that hold the set's texts: also tunes chunks."),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="In all, with those of earlier runs.")
    ] = 60,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0, help="No trial begins later.")
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="What is maximised.")] = "nDCG@10",
    tune_share: Annotated[
        float,
        typer.Option("--tune-share", min=0.05, max=0.95, help="Queries that the search sees."),
    ] = 0.5,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the split, the draws and the interval.")
    ] = 0,
    study: Annotated[
        Path | None, typer.Option("--study", help="File of the trials; else one in the home.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a settings file, e.g. youju.toml.")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", help="Settings to tune, separated by commas.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Judgements: qrels/SPLIT.tsv.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search for better settings on half of a set's queries.

    Scores the result on the other half. Stop it and run it again as you like: it goes on.
    """
    from eval.tune import TuneOptions
    from eval.tune import tune as run
    from rag.build import build_rag
    from rag.config import load_settings

    options = TuneOptions(
        trials=trials,
        seconds=seconds,
        metric=metric,
        tune_share=tune_share,
        seed=seed,
        study=study,
        out=out,
        only=[name.strip() for name in (only or "").split(",") if name.strip()],
        split=split,
    )
    rag = build_rag(load_settings().settings)
    with progress_bar("Tuning") as advance:
        report = run(rag, data, options, corpus=corpus, progress=advance)
    if as_json:
        print_json(report.to_json())
        return
    _print(report, trials, out)


def _print(report: TuneReport, trials: int, out: Path | None) -> None:
    names = dict.fromkeys([*report.start, *report.best])
    rows = [
        [name, str(report.start.get(name, "-")), str(report.best.get(name, "-"))] for name in names
    ]
    for half, scores, queries in (
        ("tune half", report.tune, report.tune_queries),
        ("held-out half", report.held_out, report.held_out_queries),
    ):
        label = f"{report.metric}, {half} ({count(queries, 'query')})"
        rows.append([label, f"{scores[0]:.4f}", f"{scores[1]:.4f}"])
    print_table(["setting", "in force", "best trial"], rows)
    say()
    say(f"Gain on the held-out half {report.held_out_gain}; on the tune half {report.tune_gain}.")
    say(report.verdict)
    for name, why in report.left_out.items():
        say(f"Not tuned: {name} ({why}).")
    ended = "Stopped after" if report.stopped else "After"
    more = "the same command goes on" if report.trials < trials else "more --trials go on from here"
    say(f"{ended} {count(report.trials, 'trial')}; {more}. Study: {report.study}")
    if out is not None:
        say(f"Wrote {out}.")
