"""`youju eval`: the commands that measure, each in a module of its own."""

from __future__ import annotations

import typer

from eval import (
    answers_cli,
    compare_cli,
    gate_cli,
    load_cli,
    make_cli,
    report_cli,
    retrieval_cli,
    tune_cli,
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def measure() -> None:
    """Measure retrieval, answers and load; compare; make sets of your own."""


app.command()(retrieval_cli.retrieval)
app.command()(answers_cli.answers)
app.command()(answers_cli.refusal)
app.command()(report_cli.report)
app.command()(make_cli.make)
app.command()(make_cli.accept)
app.command()(gate_cli.gate)
app.command()(compare_cli.compare)
app.command()(load_cli.load)
app.command()(tune_cli.tune)
