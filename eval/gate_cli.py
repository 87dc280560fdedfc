"""`youju eval gate`: parses arguments, prints results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rag.terminal import Progress, complain, count, print_json, print_table, progress_bar


def gate(
    sets: Annotated[
        Path, typer.Option("--sets", show_default=False, help="Folder of the test sets.")
    ],
    baselines: Annotated[
        Path | None,
        typer.Option("--baselines", help="What is expected; else eval/baselines.yaml."),
    ] = None,
    only: Annotated[str, typer.Option("--only", help="Those of this name; * is anything.")] = "*",
    quick: Annotated[bool, typer.Option("--quick", help="Only those that take seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fail if a score is lower than it was, beyond noise.

    Measures the settings in force.
    """
    from eval.gate import BASELINES, check, chosen, read_baselines

    wanted = chosen(read_baselines(baselines or BASELINES), only, quick=quick)
    with progress_bar("Measuring") as advance:
        found = list(check(wanted, sets, lambda done: advance(Progress(done, len(wanted)))))
    if as_json:
        print_json(
            [
                {
                    "baseline": one.baseline, "figure": one.expected.path,
                    "expected": one.expected.value, "tolerance": one.expected.tolerance,
                    "got": one.got, "verdict": one.verdict,
                }
                for one in found
            ]
        )  # fmt: skip
    else:
        print_table(
            ["baseline", "figure", "expected", "got", "difference", ""],
            [
                [
                    one.baseline, one.expected.path, f"{one.expected.value:.4f}", f"{one.got:.4f}",
                    f"{one.got - one.expected.value:+.4f}", one.verdict,
                ]
                for one in found
            ],
        )  # fmt: skip
    worse = sum(one.verdict == "worse" for one in found)
    if worse:
        complain(f"{count(worse, 'figure')} fell below the baseline by more than the tolerance.")
        raise typer.Exit(1)
