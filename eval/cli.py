"""`youju eval`: the commands that measure, each in a module of its own."""

from __future__ import annotations

import typer

from eval import answers_cli, make_cli, retrieval_cli, tune_cli

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def measure() -> None:
    """Measure retrieval, answers and refusals."""


app.command()(retrieval_cli.retrieval)
app.command()(answers_cli.answers)
app.command()(answers_cli.refusal)
app.command()(make_cli.make)
app.command()(make_cli.accept)
app.command()(tune_cli.tune)
