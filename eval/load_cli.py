"""`youju eval load`: parses arguments, prints results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rag.errors import UsageError
from rag.terminal import print_json, print_table, progress_bar, say

if TYPE_CHECKING:
    from eval.histogram import Spread
    from eval.load import LoadReport

INTERRUPTED = 130

_QUERIES = (
    "What is this about?", "Who is responsible?", "How long does it take?", "What does it cost?",
    "这是关于什么的？", "由谁负责？", "需要多长时间？", "费用是多少？",
)  # fmt: skip


def load(
    url: Annotated[
        str, typer.Option("--url", show_default=False, help="The server, as http://host:8000.")
    ],
    store: Annotated[
        str, typer.Option("--store", show_default=False, help="Name or id of a store there.")
    ],
    rate: Annotated[
        float | None, typer.Option("--rate", help="Requests a second on average, up to 10,000.")
    ] = None,
    users: Annotated[
        int | None,
        typer.Option("--users", min=1, help="Instead: who each ask once in --think seconds."),
    ] = None,
    think: Annotated[
        float, typer.Option("--think", help="Seconds on average between a user's questions.")
    ] = 10.0,
    seconds: Annotated[float, typer.Option("--seconds", help="How long requests arrive.")] = 30.0,
    kind: Annotated[
        Literal["search", "answer"],
        typer.Option("--kind", help="What is asked: a search, or an answer, streamed."),
    ] = "search",
    queries: Annotated[
        Path | None,
        typer.Option("--queries", help="A query a line, or .jsonl with text or question."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds after which a request is given up.")
    ] = 60.0,
    connections: Annotated[
        int, typer.Option("--connections", min=1, max=4096, help="Requests under way at once.")
    ] = 256,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of arrivals and queries.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Load a running server and tell how long those who ask would wait.

    Requests arrive by chance at the rate, answered or not, and are timed from when they were due.
    A key is taken from OPENAI_API_KEY. Ctrl-C ends it and shows what was measured.
    """
    from eval.arrivals import rate_of
    from eval.jsonl import read
    from eval.load import Limits
    from eval.load_client import read_queries
    from eval.load_run import measure

    for name, value in (("--think", think), ("--seconds", seconds), ("--timeout", timeout)):
        _in_range(name, value, 86_400)
    if users is not None and rate is None:
        rate, users = rate_of(users, think), None
    if rate is None or users is not None:
        raise UsageError("Got both or neither of --rate and --users.", do="Give one of them.")
    _in_range("a rate of", rate, 10_000)
    asked = list(_QUERIES)
    if queries is not None:
        asked = read_queries(read(queries, "Give --queries FILE."), str(queries))
    with progress_bar("Asking") as advance:
        store_id, report = measure(
            url, store, kind, asked, Limits(connections, timeout),
            rate=rate, seconds=seconds, seed=seed, advance=advance,
        )  # fmt: skip
    if as_json:
        print_json({"url": url, "store": store_id, "kind": kind, **report.to_json()})
    else:
        _print(report, kind)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not report.answered:
        raise typer.Exit(1)


def _in_range(name: str, value: float, most: float) -> None:
    if not 0 < value <= most:
        raise UsageError(f"Got {name} {value}.", do=f"Expected above 0 and at most {most:,}.")


def _print(report: LoadReport, kind: str) -> None:
    from eval.histogram import RESOLUTION

    say(
        f"{report.arrivals:,} requests in {report.seconds:.1f} s, {report.answered:,} answered. "
        f"Asked for {report.asked_per_s:g} a second; {report.achieved_per_s:.2f} were answered."
    )
    failed = [*report.errors.items(), ("unfinished", report.unfinished)]
    parts = [f"turned away with 429: {report.turned_away:,}"]
    parts += [f"{name}: {number:,}" for name, number in failed if number]
    say("; ".join(parts) + "\n")
    rows = [("latency, ms", report.latency, 1)]
    if kind == "answer":
        rows += [
            ("first text, ms", report.first_text, 1),
            (f"ms per {report.unit[:-1]}", report.per_unit, 3),
        ]
    rows.append(("generator late, ms", report.lateness, 1))
    shown = [_row(name, spread, digits) for name, spread, digits in rows if spread is not None]
    print_table(["", "count", "p50", "p90", "p95", "p99", "max"], shown)
    say()
    if kind == "answer":
        say(f"{report.units_per_s:.1f} {report.unit} a second in all answers together.")
    say(f"Timed from when each was due. Percentiles are at most {RESOLUTION:.1%} too long.")
    if report.errors.get("timeout"):
        say("Requests given up count in the latency with the time they waited.")
    if report.queued:
        say(f"{report.queued:,} found all connections in use; --connections allows more.")
    if not report.kept_up:
        say("This program did not keep up: the server is not alone to blame. Lower the rate.")


def _row(name: str, spread: Spread, digits: int) -> list[str]:
    times = (spread.p50, spread.p90, spread.p95, spread.p99, spread.max)
    return [name, f"{spread.count:,}", *(f"{1000 * one:.{digits}f}" for one in times)]
