"""`youju eval compare`: parses arguments, prints results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag.errors import UsageError
from rag.terminal import print_json, print_table, say

if TYPE_CHECKING:
    from eval.compare import Comparison
    from eval.scores import System

DEFAULT_METRIC = "nDCG@10"


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B...", show_default=False, help="Results by query, or TREC runs."
        ),
    ],
    qrels: Annotated[
        Path | None, typer.Option("--qrels", help="Judgements; the files are TREC runs.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="Compared value; may be repeated. Else nDCG@10."),
    ] = None,
    missing_as_zero: Annotated[
        bool,
        typer.Option("--missing-as-zero", help="A query missing in a run found nothing."),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the resampling.")] = 0,
    examples: Annotated[
        int, typer.Option("--examples", min=0, max=1000, help="Queries to show each way.")
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell whether one system is better than another, query by query.

    Paired randomisation test, bootstrap interval, wins and losses; every two files are compared,
    and p-values are corrected for the number of comparisons.
    """
    from eval.compare import compare as compared
    from eval.scores import read_results, read_runs

    metrics = metric or [DEFAULT_METRIC]
    if len(files) < 2:
        raise UsageError("Got one file to compare.", do="Expected two or more.")
    if len(set(metrics)) < len(metrics):
        raise UsageError("Got a --metric twice.", do="Expected each once.")
    if qrels is None:
        if missing_as_zero:
            raise UsageError("Got --missing-as-zero without --qrels.", do="It is for TREC runs.")
        systems = read_results(files, metrics)
    else:
        systems = read_runs(files, qrels, metrics, missing_as_zero=missing_as_zero)
    found = compared(systems, metrics, seed=seed, examples=examples)
    if as_json:
        print_json(
            {
                "seed": seed,
                "systems": [{"name": one.name, "unjudged": one.unjudged} for one in systems],
                "comparisons": [one.to_json() for one in found],
            }
        )
        return
    _print(found, systems, seed)


def _print(found: Sequence[Comparison], systems: Sequence[System], seed: int) -> None:
    corrected = len(found) > 1
    print_table(
        [
            *("metric", "first", "second", "queries", "mean 1", "mean 2", "difference"),
            *("95 % interval", "effect", "p", *(["p (Holm)"] if corrected else [])),
            "wins/ties/losses",
        ],
        [
            [
                *(one.metric, one.first, one.second, str(one.queries)),
                *(f"{one.mean_first:.4f}", f"{one.mean_second:.4f}", f"{one.difference:+.4f}"),
                f"{one.interval.low:+.4f} to {one.interval.high:+.4f}",
                "-" if one.effect is None else f"{one.effect:+.2f}",
                _p(one.test.p_value),
                *([_p(one.p_holm)] if corrected else []),
                f"{one.wins}/{one.ties}/{one.losses}",
            ]
            for one in found
        ],
    )
    for one in found:
        for better, shown in ((one.second, one.gains), (one.first, one.drops)):
            if shown:
                say(f"\n{one.metric}, {one.first} and {one.second}: most in favour of {better}")
                print_table(
                    ["first", "second", "query"],
                    [[f"{row.first:.4f}", f"{row.second:.4f}", row.query] for row in shown],
                )
    tried = sorted({(one.test.exact, one.test.resamples) for one in found})
    how = " or ".join(
        f"all {number:,} sign changes" if exact else f"{number:,} drawn sign changes"
        for exact, number in tried
    )
    say(f"\nDifferences are second less first. p: two-sided, {how}. Interval: BCa. Seed {seed}.")
    for system in systems:
        if system.unjudged:
            say(f"{system.name}: left out what is not judged, queries: {system.unjudged:,}.")


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"
