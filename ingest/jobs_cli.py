"""The commands `youju worker` and `youju jobs`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import asdict
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ingest.cli import JsonOption
from rag.errors import UsageError
from rag.terminal import print_json, print_table, say

if TYPE_CHECKING:
    from ingest.job_list import JobInfo
    from rag.build import Rag

jobs_app = typer.Typer(no_args_is_help=True, help="List, show and cancel ingestion jobs.")

JobId = Annotated[str, typer.Argument(show_default=False, help="An id from `youju jobs list`.")]


def worker(
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Files at once; else the setting `job_concurrency`."),
    ] = None,
) -> None:
    """Ingest what has been uploaded, in a process of its own.

    `youju serve` starts one by itself unless the setting `jobs_in_server` is off. Ctrl-C or
    SIGTERM ends it; what is not finished goes on with the next one.
    """
    from ingest.job_worker import Worker
    from rag.build import build_rag
    from rag.config import load_settings

    rag = build_rag(load_settings({"job_concurrency": concurrency}).settings)
    bell, stop = threading.Event(), threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()
        bell.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    say(f"Working on {rag.db.name}. Ctrl-C ends it.")
    sys.stdout.flush()
    clean = Worker(rag, report=_report, bell=bell, stop=stop, index=True).run()
    sys.stdout.flush()
    if not clean:
        os._exit(0)


def _report(store: str, file: str, status: str, seconds: float, message: str) -> None:
    told = f": {message}" if message else ""
    say(f"{status} {file} {store} {seconds:.2f} s{told}".replace("  ", " "))
    sys.stdout.flush()


@jobs_app.command("list")
def list_jobs(
    limit: Annotated[
        int, typer.Option(min=0, max=10_000, help="At most so many of those that are done.")
    ] = 50,
    as_json: JsonOption = False,
) -> None:
    """List what is being ingested, what waits, and what is done."""
    from ingest.job_list import jobs

    found = jobs(_rag(), limit=limit)
    if as_json:
        print_json({"jobs": [asdict(info) for info in found]})
    elif not found:
        say("No jobs.")
    else:
        header = ["job", "status", "store", "began", "seconds", "file", "reason"]
        print_table(header, [_row(info) for info in found])


@jobs_app.command("show")
def show_job(job_id: JobId, as_json: JsonOption = False) -> None:
    """Show one job: how far it is, or what became of it."""
    from ingest.job_list import jobs

    found = [one for one in jobs(_rag(), limit=10_000) if one.id.startswith(job_id)]
    if not found:
        raise UsageError(f"No job with id {job_id!r}.", do="See `youju jobs list`.")
    if as_json:
        print_json(asdict(found[0]))
        return
    for name, value in asdict(found[0]).items():
        if name == "created_at":
            value = f"{datetime.fromtimestamp(value):%Y-%m-%d %H:%M:%S}"
        elif name == "seconds" and value is not None:
            value = f"{value:.0f}"  # SQLite's job database keeps whole ones
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {one}" for key, one in value.items() if one is not None)
        say(f"{name}: {value if value not in (None, '') else '-'}")


@jobs_app.command("cancel")
def cancel(job_id: JobId, as_json: JsonOption = False) -> None:
    """Give a job up.

    One that runs ends before its next step and leaves nothing in the store; what `youju ingest`
    has committed stays.
    """
    from ingest.job_list import cancel_job

    if not cancel_job(_rag(), job_id):
        raise UsageError(f"No unfinished job with id {job_id!r}.", do="See `youju jobs list`.")
    if as_json:
        print_json({"id": job_id, "cancelled": True})
    else:
        say(f"Cancelled {job_id}.")


def _rag() -> Rag:
    from rag.build import build_rag
    from rag.config import load_settings

    return build_rag(load_settings().settings)


def _row(info: JobInfo) -> list[str]:
    began = f"{datetime.fromtimestamp(info.created_at):%m-%d %H:%M}"
    seconds = "-" if info.seconds is None else f"{info.seconds:.0f}"
    return [info.id, info.status, info.store, began, seconds, info.file, info.reason]
