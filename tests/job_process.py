"""Workers in processes of their own, over a home folder with an embedder that can be made to fail.

What a text holds says what happens when it is embedded: "poison" kills the process, "slowly"
takes a while, "forever" does not end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service_samples import check_lists_agree, on_disk
from sqlalchemy import select
from upload_bench import Bench

from ingest.spool import spools
from rag.store.corpus import Store
from rag.store.service_tables import FileRow
from rag.store.tables import ChunkRow, DocumentRow

ROOT = Path(__file__).resolve().parents[1]

_SCRIPT = """
import os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from upload_bench import Bench, Moved
from ingest import job_worker
job_worker.IDLE_S = 0.05
job_worker.LOOK_AROUND_S = 0.3
embedder = Moved()
embedder.at["poison"] = lambda: os.kill(os.getpid(), signal.SIGKILL)
embedder.at["slowly"] = lambda: time.sleep(0.05)
embedder.at["forever"] = lambda: (print("embedding", flush=True), time.sleep(600))
{more}
bell, stop = threading.Event(), threading.Event()
def end(*_):
    stop.set()
    bell.set()
signal.signal(signal.SIGTERM, end)
def report(store, file, status, seconds, message):
    print(file, status, flush=True)
bench = Bench(Path({home!r}), embedder, **{settings!r})
clean = job_worker.Worker(bench.rag, report=report, bell=bell, stop=stop).run()
sys.stdout.flush()
os._exit(0 if clean else 3)
"""


def start_worker(
    home: Path, *, concurrency: int = 2, more: str = "", **settings: Any
) -> subprocess.Popen[str]:
    """Start a worker; its reports, "<file id> <status>", are lines of its standard output.

    Args:
        home: The home folder.
        concurrency: Files at once.
        more: Code to run before it begins.
        settings: Others, by name.
    """
    code = _SCRIPT.format(
        tests=str(ROOT / "tests"), home=str(home), more=more,
        settings={"job_concurrency": concurrency, **settings},
    )  # fmt: skip
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """End a worker and its parsers at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def worker(home: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a worker, with options of `start_worker`, for the length of a `with` block."""
    process = start_worker(home, **options)
    try:
        yield process
    finally:
        kill(process)


def keep_working(
    home: Path, done: Callable[[], bool], *, timeout_s: float = 60.0, **options: Any
) -> int:
    """Run workers until `done`, a new one whenever one dies; return how many died."""
    end = time.monotonic() + timeout_s
    died = 0
    process = start_worker(home, **options)
    try:
        while not done():
            assert time.monotonic() < end, "it did not come about in time"
            if process.poll() is not None:
                died += 1
                kill(process)
                process = start_worker(home, **options)
            time.sleep(0.05)
    finally:
        kill(process)
    return died


def check_nothing_is_astray(bench: Bench, store: Store, files: list[str]) -> None:
    """These files are in the store once each, found, and nothing else is anywhere."""
    with bench.rag.db.read() as session:
        documents = list(session.scalars(select(DocumentRow.file_id)))
        chunks = set(session.scalars(select(ChunkRow.id)))
        kept = {row.sha256 for row in session.scalars(select(FileRow).where(FileRow.kept))}
    assert sorted(documents) == sorted(files)
    check_lists_agree(bench.rag.db)
    assert {Path(name).name for name in on_disk(bench.rag.settings.blobs_folder)} == kept
    assert list(spools(bench.rag.settings.jobs_folder)) == []
    opened = bench.opened.get(store)
    assert set(opened.dense.refresh().contents()[0].tolist()) == chunks
    assert len(opened.lexical.refresh()) == len(chunks)
