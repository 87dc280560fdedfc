"""`youju ingest` outlives its process: whoever comes next finishes it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from command import Run
from served_process import ROOT
from sqlalchemy.exc import OperationalError

from ingest.executors import Slot
from ingest.file_job import Result
from ingest.folder_job import PREFIX, Request, interrupted
from ingest.job_list import jobs
from ingest.jobs import Executor
from ingest.spool import Spool, spools
from rag.build import build_rag
from rag.config import Settings
from rag.store.changelog import ChangeLog

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX"),
    pytest.mark.timeout(120),
]
FILES = 40


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number:02}.txt").write_text(f"Valve {number} is blue. " * 40)
    return folder


def _start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "YOUJU_HOME": str(home), "PYTHONPATH": path}
    environment["YOUJU_COMMIT_CHUNKS"] = "4"
    return subprocess.Popen(
        [sys.executable, "-m", "youju", *arguments],
        env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def _documents(home: Path) -> int:
    rag = build_rag(Settings(home=home))
    try:
        return sum(info.documents for info in rag.catalog.stores())
    finally:
        rag.db.close()


def _killed_midway(home: Path, corpus: Path) -> None:
    process = _start(home, "ingest", str(corpus), "--store", "valves")
    end = time.monotonic() + 60
    while not (home / "youju.db").exists() or _documents(home) < 4:
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 4 <= _documents(home) < FILES
    assert len(interrupted(home / "jobs")) == 1


def test_the_next_ingest_finishes_it_first_and_says_so(
    home: Path, corpus: Path, tmp_path: Path, run: Run
) -> None:
    _killed_midway(home, corpus)
    (tmp_path / "other.txt").write_text("The pump needs oil.")
    rag = build_rag(Settings(home=home))
    (job,) = jobs(rag)
    assert (job.kind, job.status, job.store) == ("folders", "interrupted", "valves")
    rag.db.close()

    done = run("ingest", str(tmp_path / "other.txt"), "--store", "other")

    assert done.status == 0, done
    second, first = [line for line in done.out.splitlines() if line]
    assert "Store other: 1 added" in first
    assert "Finished an ingest into store valves that was interrupted" in second
    assert _documents(home) == FILES + 1
    assert list(spools(home / "jobs")) == []
    assert list((home / "jobs").glob("ingest-*")) == []
    listed = json.loads(run("jobs", "list", "--json").out)["jobs"]
    assert [job["status"] for job in listed] == ["completed", "completed", "cancelled"]
    assert b"corpus" not in (home / "jobs.db").read_bytes()


@pytest.mark.slow
def test_the_same_again_goes_on(home: Path, corpus: Path, run: Run) -> None:
    _killed_midway(home, corpus)

    done = run("ingest", str(corpus), "--store", "valves")

    assert "Going on with an ingest that was interrupted." in done.out
    assert "0 replaced" in done.out
    assert _documents(home) == FILES
    assert list(spools(home / "jobs")) == []


def test_a_worker_finishes_it(home: Path, corpus: Path) -> None:
    _killed_midway(home, corpus)
    worker = _start(home, "worker")
    assert worker.stdout is not None
    said = [worker.stdout.readline(), worker.stdout.readline()]
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=30)
    assert said[1].startswith(f"completed {PREFIX}")
    assert _documents(home) == FILES
    assert list(spools(home / "jobs")) == []


def test_nothing_to_do_starts_no_job(home: Path, corpus: Path, run: Run) -> None:
    assert run("ingest", str(corpus)).status == 0
    for path in home.glob("jobs.db*"):
        path.unlink()
    assert f"{FILES} unchanged" in run("ingest", str(corpus)).out
    assert not (home / "jobs.db").exists()
    assert run("jobs", "list").out == "No jobs.\n"
    assert run("jobs", "show", "none").status == 2
    assert run("jobs", "cancel", "none").status == 2
    assert run("jobs", "cancel", "../x.y").status == 2


def test_one_that_kills_its_process_again_and_again_is_given_up(home: Path, run: Run) -> None:
    spool = Spool(home / "jobs", f"{PREFIX}1")
    for _ in range(3):
        slot = Slot.unique(home / "jobs", "ingest")
        spool.take(slot.run)
        slot.release()
    Request("valves", (str(home / "gone"),), prune=False).write(spool)
    (home / "a.txt").write_text("The pump needs oil.")
    assert "is given up" in run("ingest", str(home / "a.txt")).out
    assert list(spools(home / "jobs")) == []


def test_one_whose_folder_is_gone_fails_and_harms_no_other(home: Path, run: Run) -> None:
    Request("valves", (str(home / "gone"),), prune=False).write(Spool(home / "jobs", f"{PREFIX}1"))
    (home / "a.txt").write_text("The pump needs oil.")
    done = run("ingest", str(home / "a.txt"))
    assert done.status == 0
    assert "that was interrupted has failed" in done.out
    assert list(spools(home / "jobs")) == []


def test_a_cancelled_one_ends(home: Path, corpus: Path, run: Run) -> None:
    process = _start(home, "ingest", str(corpus), "--store", "valves")
    while not interrupted_or_running(home):
        time.sleep(0.02)
    (spool,) = spools(home / "jobs")
    assert run("jobs", "cancel", spool.job_id).status == 0
    process.communicate(timeout=60)
    assert process.returncode in (0, 2)  # 0: it was quicker
    assert list(spools(home / "jobs")) == []


def _no_room(*_: object) -> None:
    """Fail as SQLite does on a full disk."""
    with closing(sqlite3.connect(":memory:")) as rows:
        rows.execute("PRAGMA max_page_count = 1")
        try:
            rows.execute("CREATE TABLE t (a)")
        except sqlite3.OperationalError as error:
            raise OperationalError("INSERT", {}, error) from error


@pytest.mark.parametrize("full", ["documents", "jobs"])
def test_a_full_disk_is_one_line_and_what_was_done_and_refused_is_told(
    home: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    monkeypatch.setenv("YOUJU_HOME", str(home))
    monkeypatch.setenv("YOUJU_COMMIT_CHUNKS", "1")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(4):
        (corpus / f"{number:02}.txt").write_text(f"Valve {number} is blue.")
    (corpus / "00.pdf").write_text("no PDF")
    commits: list[int] = []
    commit = ChangeLog.write
    step = Executor.step

    def fills(log: ChangeLog) -> None:
        if len(commits) == 2 and full == "documents":
            _no_room()
        commits.append(1)
        commit(log)

    def recorded(executor: Executor, name: str, work: Callable[[], Result]) -> Result:
        result = step(executor, name, work)
        if len(commits) == 2:
            _no_room()
        return result

    with monkeypatch.context() as patch:
        if full == "jobs":
            patch.setattr(Executor, "step", recorded)
        patch.setattr(ChangeLog, "write", fills)
        broken = run("ingest", str(corpus))
    assert broken.status == 1
    lines = broken.err.splitlines()
    assert "00.pdf: Not a PDF" in lines[-3]
    assert "The run was broken off; 2 files of it" in lines[-2]
    assert "the disk is full. Free some space" in lines[-1]
    assert _documents(home) == 2
    again = run("ingest", str(corpus))
    assert again.status == 1
    assert "00.pdf: Not a PDF" in again.err
    assert _documents(home) == 4


def interrupted_or_running(home: Path) -> bool:
    return any(Request.read(spool) for spool in spools(home / "jobs"))
