"""Durable jobs of uploaded files: workers are killed, files poisoned, job databases lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_process import check_nothing_is_astray, keep_working, kill, start_worker, worker
from service_samples import add_file
from upload_bench import Bench, wait_until

from ingest.folder_job import PREFIX, Request
from ingest.job_list import cancel_job, jobs
from ingest.spool import Spool, spools
from rag.store.corpus import Store
from rag.store.store_files import Entry

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Iterator[Bench]:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    made = Bench(tmp_path / "home")
    yield made
    made.rag.db.close()


@pytest.fixture
def home(bench: Bench) -> Path:
    return bench.rag.settings.home


def nothing_waits(bench: Bench) -> bool:
    left = list(spools(bench.rag.settings.jobs_folder))
    return bench.listed.waiting() == 0 and not left


def put_many(bench: Bench, store: Store, number: int) -> list[str]:
    """Put files into a store as one batch."""
    ids = [add_file(bench.files, f"Valve {n} is blue, slowly.".encode()).id for n in range(number)]
    batch = bench.listed.new_batch(store.id)
    bench.listed.add(store.id, [Entry(file) for file in ids], batch.id)
    return ids


# -- killed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kills", "files"), [(2, 16), pytest.param(50, 300, marks=pytest.mark.slow)]
)
def test_workers_killed_at_any_moment_lose_and_double_nothing(
    bench: Bench, home: Path, kills: int, files: int
) -> None:
    store = bench.store()
    ids = put_many(bench, store, files)
    moments = random.Random(2026)
    hit = 0
    for _ in range(kills):
        process = start_worker(home)
        assert process.stdout is not None
        if moments.random() < 0.8:  # when it is at work, not before
            process.stdout.readline()
        time.sleep(moments.uniform(0, 0.2))
        hit += any(spool.holder() for spool in spools(bench.rag.settings.jobs_folder))
        kill(process)
    assert hit, "no worker was killed with a file in hand"

    keep_working(home, lambda: nothing_waits(bench), timeout_s=200)

    assert {bench.state(store, file).status for file in ids} == {"completed"}
    check_nothing_is_astray(bench, store, ids)


def test_a_file_that_kills_its_worker_is_given_up_and_the_others_are_done(
    bench: Bench, home: Path
) -> None:
    store = bench.store()
    bad = bench.put(store, "This is poison.")
    good = [bench.put(store, f"Valve {number} is blue.") for number in range(4)]

    def told() -> list[str]:
        return [one.reason for one in jobs(bench.rag) if one.status == "failed"]

    died = keep_working(home, lambda: nothing_waits(bench) and bool(told()))

    assert died == 3
    row = bench.state(store, bad)
    assert (row.status, row.error_code) == ("failed", "server_error")
    assert "3 times the process" in (row.error_message or "")
    assert [bench.state(store, file).status for file in good] == ["completed"] * 4
    assert told() == [row.error_message]
    check_nothing_is_astray(bench, store, good)


def test_what_was_parsed_and_embedded_is_not_done_again(bench: Bench, home: Path) -> None:
    store = bench.store()
    body = "\n\n".join(f"Valve {number} is blue and heavy." for number in range(2000))
    text = f"{body}\n\nThe last one takes forever."
    file = bench.put(store, text, chunk_tokens=16)
    with worker(home) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "embedding\n"
        (spool,) = spools(bench.rag.settings.jobs_folder)
        parts = len(list(spool.folder.glob("vectors-*.npy")))
        assert parts > 2
        (info,) = jobs(bench.rag)
        assert (info.status, (info.progress or {})["phase"]) == ("running", "embedding")
        assert (info.progress or {})["chunks_done"] == parts * 256
    assert jobs(bench.rag)[0].status == "interrupted"

    refuse = (  # it must not parse, and embed the last slice only
        "embedder.at.clear()\n"
        "from ingest.fence import ParserPool\n"
        "ParserPool.parse = lambda *_: 1 / 0\n"
        "embedder.at['Valve 7 '] = lambda: 1 / 0\n"
    )
    with worker(home, more=refuse):
        wait_until(lambda: bench.state(store, file).status != "in_progress")
        wait_until(lambda: not list(spools(bench.rag.settings.jobs_folder)))

    assert bench.state(store, file).status == "completed", bench.state(store, file).error_message
    check_nothing_is_astray(bench, store, [file])


@pytest.mark.slow
def test_asked_to_end_it_puts_its_files_down_and_no_file_is_blamed(
    bench: Bench, home: Path
) -> None:
    store = bench.store()
    ids = put_many(bench, store, 12)
    for _ in range(4):
        process = start_worker(home)
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        kill(process)
        for spool in spools(bench.rag.settings.jobs_folder):
            assert (spool.holder(), spool.deaths()) == ("", 0)
    assert keep_working(home, lambda: nothing_waits(bench)) == 0
    check_nothing_is_astray(bench, store, ids)


def test_asked_to_end_it_puts_a_folder_down_for_the_next_one(
    bench: Bench, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "corpus").mkdir()
    for number in range(12):
        (tmp_path / "corpus" / f"{number}.txt").write_text(f"Valve {number} is blue, slowly.")
    spool = Spool(home / "jobs", f"{PREFIX}1")
    Request("f", (str(tmp_path / "corpus"),), prune=False).write(spool)

    def held() -> int:
        return sum(info.documents for info in bench.rag.catalog.stores())

    with worker(home, more="job_worker.LEAVE_S = 60", commit_chunks=1) as process:
        wait_until(lambda: held() > 0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (spool.holder(), spool.deaths()) == ("", 0)
    assert held() < 12
    with worker(home):
        wait_until(lambda: not list(spools(home / "jobs")))
    assert held() == 12


# -- several, and others ---------------------------------------------------------------------------


def test_two_workers_share_the_work_and_one_takes_over_what_the_other_leaves(
    bench: Bench, home: Path
) -> None:
    store = bench.store()
    stuck = bench.put(store, "It takes forever.")
    with worker(home, concurrency=1) as first, worker(home, concurrency=1) as second:
        others = put_many(bench, store, 6)
        wait_until(lambda: bench.listed.waiting() == 1)
        (row,) = bench.listed.claimed()
        assert row.file_id == stuck
        for process in (first, second):  # which has it?
            assert process.stdout is not None
        kill(first if str(row.worker).startswith(_slot_of(home, first.pid, bench)) else second)
        wait_until(lambda: bench.listed.claimed()[0].worker == row.worker)
        bench.listed.cancel(store.id, stuck)
    assert {bench.state(store, file).status for file in others} == {"completed"}


def _slot_of(home: Path, pid: int, bench: Bench) -> str:
    """Return which slot a process holds: the one whose lock file it has open."""
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(handle)
        except OSError:
            continue
        if target.startswith(str(bench.rag.settings.jobs_folder)) and target.endswith(".lock"):
            return Path(target).stem
    return "none"


@pytest.mark.parametrize("how", [pytest.param("deleted", marks=pytest.mark.slow), "damaged"])
def test_the_job_database_can_be_lost(bench: Bench, home: Path, how: str) -> None:
    store = bench.store()
    stuck = bench.put(store, "It takes forever.")
    with worker(home) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "embedding\n"
        ids = put_many(bench, store, 3)
        wait_until(lambda: bench.listed.waiting() == 1)
        _lose(home, how)
        ids += put_many(bench, store, 3)
        if how == "deleted":
            wait_until(lambda: bench.listed.waiting() == 1)
    _lose(home, how)

    with worker(home, more="embedder.at.clear()"):
        wait_until(lambda: nothing_waits(bench))
    check_nothing_is_astray(bench, store, [stuck, *ids])


def _lose(home: Path, how: str) -> None:
    for path in home.glob("jobs.db*"):
        path.unlink() if how == "deleted" else path.write_bytes(b"no database " * 1000)


@pytest.mark.parametrize("change", [pytest.param("steps", marks=pytest.mark.slow), "version"])
def test_jobs_of_another_version_of_the_program_go_on(
    bench: Bench, home: Path, change: str
) -> None:
    store = bench.store()
    file = bench.put(store, "It takes forever.")
    before = {
        "steps": (
            "from ingest.jobs import Executor\n"
            "plain = Executor.step\n"
            "Executor.step = lambda self, name, work: plain(self, 'old ' + name, work)\n"
        ),
        "version": "import ingest.jobs\ningest.jobs.VERSION = '0'\n",
    }[change]
    with worker(home, more=before) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "embedding\n"

    with worker(home, more="embedder.at.clear()"):
        wait_until(lambda: nothing_waits(bench), 30)

    assert bench.state(store, file).status == "completed"
    check_nothing_is_astray(bench, store, [file])


# -- meanwhile -------------------------------------------------------------------------------------


def test_single_files_go_before_batches_and_what_is_cancelled_leaves_nothing(
    bench: Bench, home: Path
) -> None:
    store = bench.store()
    batch = put_many(bench, store, 3)
    single = bench.put(store, "The pump needs oil.")
    dropped = bench.put(store, "Not wanted.")
    assert cancel_job(bench.rag, f"{store.id}.{dropped}")
    assert not cancel_job(bench.rag, f"{store.id}.{dropped}")
    with worker(home, concurrency=1) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().split() for _ in range(4)]
        assert told == [[file, "completed"] for file in (single, *batch)]
        stuck = bench.put(store, "It takes forever.")
        assert process.stdout.readline() == "embedding\n"
        store.remove_file(stuck)
        process.send_signal(signal.SIGTERM)
    assert bench.state(store, dropped).status == "cancelled"
    with worker(home, more="embedder.at.clear()"):
        wait_until(lambda: not list(spools(bench.rag.settings.jobs_folder)), 30)
    check_nothing_is_astray(bench, store, [single, *batch])


def test_history_goes_with_its_files_and_with_time(bench: Bench, home: Path) -> None:
    store = bench.store()
    files = [bench.put(store, f"Valve {number} is blue.") for number in range(3)]
    with worker(home):  # the history says "completed" a moment after the file does
        wait_until(lambda: [one.status for one in jobs(bench.rag)] == ["completed"] * 3)
    done = jobs(bench.rag)
    assert [(one.kind, one.status, one.file) for one in done] == [
        ("file", "completed", "a.txt")
    ] * 3
    assert {one.id.split(".")[1] for one in done} == set(files)
    assert all(one.seconds is not None and one.store == "s" for one in done)
    for path in home.glob("jobs.db*"):
        assert b"Valve" not in path.read_bytes()
        assert b"a.txt" not in path.read_bytes()
    assert (home / "jobs.db").stat().st_mode & 0o777 == 0o600

    store.remove_file(files[0])
    with worker(home):
        wait_until(lambda: _remembered(home) == 2)
    old = "from rag import config\nconfig.Settings.model_fields['job_history_days'].default = 0\n"
    with worker(home, more=old + "config.Settings.model_rebuild(force=True)\n"):
        wait_until(lambda: _remembered(home) == 0)


def _remembered(home: Path) -> int:
    import sqlite3

    connection = sqlite3.connect(home / "jobs.db")
    try:
        return int(connection.execute("SELECT count(*) FROM workflow_status").fetchone()[0])
    finally:
        connection.close()


# -- spools ----------------------------------------------------------------------------------------


def test_a_torn_spool_is_as_good_as_none(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "a.b.1")
    assert (spool.deaths(), spool.tries(), spool.holder(), spool.owner()) == (0, 0, "", "")
    assert spool.take("worker-1.aa") == 0
    assert spool.take("worker-1.aa") == 0
    assert spool.take("worker-1.bb") == 1
    assert spool.owner() == "worker-1"
    spool.put_down()
    assert spool.take("worker-1.cc") == 1
    for path in spool.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-2])
    assert (spool.deaths(), spool.document()) == (0, None)
    (spool.folder / "vectors-00000.npy").write_bytes(b"\x93NUMPY\x01\x00torn")
    assert spool.vectors(0, (1, 1)) is None
