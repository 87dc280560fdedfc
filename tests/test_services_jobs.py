"""Durable jobs with the store and the jobs in PostgreSQL: workers killed, the server restarted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from job_process import check_nothing_is_astray, keep_working, kill, start_worker, worker
from postgres import Cluster, cluster
from served_process import ROOT, serve_process
from service_samples import add_file
from upload_bench import Bench, wait_until

from ingest.job_list import cancel_job, jobs
from ingest.jobs import SCHEMA
from ingest.spool import spools
from rag.store.corpus import Store
from rag.store.store_files import Entry

pytestmark = [pytest.mark.services, pytest.mark.timeout(400)]


@pytest.fixture
def url(postgres: Cluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database, which is that of this process and of those that it starts."""
    made = postgres.new_url()
    monkeypatch.setenv("YOUJU_DATABASE_URL", made)
    return made


@pytest.fixture
def bench(tmp_path: Path, url: str) -> Iterator[Bench]:
    (tmp_path / "home").mkdir(exist_ok=True)
    made = Bench(tmp_path / "home", database_url=url)
    yield made
    made.rag.db.close()


def put_many(bench: Bench, store: Store, number: int) -> list[str]:
    """Put files into a store as one batch."""
    ids = [add_file(bench.files, f"Valve {n} is blue, slowly.".encode()).id for n in range(number)]
    bench.listed.new_batch(store.id, [Entry(file) for file in ids])
    return ids


def nothing_waits(bench: Bench) -> bool:
    return bench.listed.waiting() == 0 and not list(spools(bench.rag.settings.jobs_folder))


def remembered(postgres: Cluster, url: str) -> Counter[str]:
    """The files of the jobs that DBOS remembers as done, in its own schema."""
    found = postgres.sql(
        f"SELECT workflow_uuid FROM {SCHEMA}.workflow_status WHERE status = 'SUCCESS'",
        url.rpartition("/")[2],
    )
    return Counter(str(id_).split(".")[1] for (id_,) in found)


def test_workers_killed_at_any_moment_lose_and_double_nothing(
    bench: Bench, url: str, postgres: Cluster
) -> None:
    home = bench.rag.settings.home
    store = bench.store()
    ids = put_many(bench, store, 40)
    moments = random.Random(2026)
    patient = "from ingest import file_job; file_job.MOST_DEATHS = 99"  # each is killed often
    hit = 0
    for _ in range(6):
        process = start_worker(home, more=patient, database_url=url)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.2))
        hit += any(spool.holder() for spool in spools(bench.rag.settings.jobs_folder))
        kill(process)
    assert hit, "no worker was killed with a file in hand"

    keep_working(home, lambda: nothing_waits(bench), timeout_s=200, more=patient, database_url=url)

    assert {bench.state(store, file).error_message for file in ids} == {None}
    check_nothing_is_astray(bench, store, ids)
    assert not (home / "jobs.db").exists()
    assert set(remembered(postgres, url)) == set(ids)
    done = [one for one in jobs(bench.rag, limit=1000) if one.status == "completed"]
    assert {one.id.split(".")[1] for one in done} == set(ids)


def test_a_file_that_kills_its_worker_is_given_up(bench: Bench, url: str) -> None:
    store = bench.store()
    bad = bench.put(store, "This is poison.")
    good = [bench.put(store, f"Valve {number} is blue.") for number in range(4)]

    died = keep_working(bench.rag.settings.home, lambda: nothing_waits(bench), database_url=url)

    assert died == 3
    assert "3 times the process" in (bench.state(store, bad).error_message or "")
    assert [bench.state(store, file).status for file in good] == ["completed"] * 4
    check_nothing_is_astray(bench, store, good)


def test_one_of_two_workers_takes_over_what_the_other_has_done_so_far(
    bench: Bench, url: str
) -> None:
    home = bench.rag.settings.home
    store = bench.store()
    with worker(home, concurrency=1, database_url=url) as first:
        assert first.stdout is not None
        stuck = bench.put(store, "It takes forever.")
        assert first.stdout.readline() == "embedding\n"
        with worker(home, more="embedder.at.clear()", database_url=url) as second:
            others = put_many(bench, store, 6)
            wait_until(lambda: bench.listed.waiting() == 1)
            assert bench.state(store, stuck).status == "in_progress"
            kill(first)
            wait_until(lambda: nothing_waits(bench))
            second.send_signal(signal.SIGTERM)
            assert second.wait(20) == 0
    check_nothing_is_astray(bench, store, [stuck, *others])


def test_jobs_are_cancelled_and_forgotten(bench: Bench, url: str, postgres: Cluster) -> None:
    home = bench.rag.settings.home
    store = bench.store()
    kept, gone = (bench.put(store, f"The {what} is blue.") for what in ("pump", "valve"))
    with worker(home, database_url=url):
        wait_until(lambda: nothing_waits(bench))
        stuck = bench.put(store, "It takes forever.")
        wait_until(lambda: any(one.status == "running" for one in jobs(bench.rag)))
        assert cancel_job(bench.rag, f"{store.id}.{stuck}")
    assert bench.state(store, stuck).status == "cancelled"
    store.remove_file(gone)
    with worker(home, more="embedder.at.clear()", database_url=url):
        wait_until(lambda: nothing_waits(bench))
        wait_until(lambda: set(remembered(postgres, url)) == {kept, stuck})
    check_nothing_is_astray(bench, store, [kept])


def test_the_jobs_schema_can_be_lost(bench: Bench, url: str, postgres: Cluster) -> None:
    home = bench.rag.settings.home
    store = bench.store()
    stuck = bench.put(store, "It takes forever.")
    with worker(home, database_url=url) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "embedding\n"
    postgres.sql(f"DROP SCHEMA {SCHEMA} CASCADE", url.rpartition("/")[2])
    assert [one.status for one in jobs(bench.rag)] == ["interrupted"]

    with worker(home, more="embedder.at.clear()", database_url=url):
        wait_until(lambda: nothing_waits(bench))
    check_nothing_is_astray(bench, store, [stuck])


def test_a_database_that_is_restarted_under_a_worker(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with cluster() as own:
        url = own.new_url()
        bench = Bench(home, database_url=url)
        store = bench.store()
        ids = put_many(bench, store, 60)
        with worker(home, more="job_worker.FAULT_S = 0.5", database_url=url) as process:
            assert process.stdout is not None
            process.stdout.readline()
            own.control("restart", "-m", "fast")
            time.sleep(0.5)
            own.control("restart", "-m", "immediate")
            wait_until(lambda: nothing_waits(bench))
            assert process.poll() is None
        assert {bench.state(store, file).status for file in ids} == {"completed"}
        check_nothing_is_astray(bench, store, ids)
        bench.rag.db.close()


# -- the commands ----------------------------------------------------------------------------------


def environment(home: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "YOUJU_HOME": str(home), "PYTHONPATH": path}


def start(home: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "youju", *arguments],
        env=environment(home) | more,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_group(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def upload(http: httpx.Client, store: str, number: int) -> str:
    text = f"# Valve {number}\n\nThe valve K{number} opens at {number + 2} bar.\n" * 20
    sent = {"file": (f"{number}.md", text.encode())}
    answer = http.post("/v1/files", files=sent, data={"purpose": "assistants"})
    file = str(answer.json()["id"])
    http.post(f"/v1/vector_stores/{store}/files", json={"file_id": file}).raise_for_status()
    return file


def test_uploads_and_a_folder_outlive_the_processes_that_ingest_them(
    served_home: Path, tmp_path: Path, url: str
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(60):
        (corpus / f"{number}.txt").write_text(f"Pump {number} weighs {number + 100} kg. " * 30)
    folder = start(served_home, "ingest", str(corpus), "--store", "f", YOUJU_COMMIT_CHUNKS="8")
    bench = Bench(served_home, database_url=url)
    wait_until(lambda: any(info.documents for info in bench.rag.catalog.stores()))
    kill_group(folder)
    assert 0 < bench.rag.catalog.stores()[0].documents < 60

    with (
        serve_process(served_home, jobs_in_server=False, database_url=url) as served,
        served.http() as http,
    ):
        store = http.post("/v1/vector_stores", json={"name": "s"}).json()["id"]
        files = [upload(http, store, number) for number in range(30)]

        def counts() -> dict[str, int]:
            found = http.get(f"/v1/vector_stores/{store}").json()["file_counts"]
            return {name: number for name, number in found.items() if number}

        first = start(served_home, "worker")
        wait_until(lambda: counts().get("completed", 0) > 2)
        kill_group(first)
        assert counts().get("in_progress", 0) > 0
        second = start(served_home, "worker")
        wait_until(lambda: counts() == {"completed": 30, "total": 30})
        wait_until(lambda: len(bench.rag.catalog.get("f").hashes()) == 60)
        wait_until(lambda: not list(spools(served_home / "jobs")))
        second.send_signal(signal.SIGTERM)
        said, errors = second.communicate(timeout=30)
        assert (second.returncode, errors) == (0, ""), said

        query = {"query": "valve bar", "max_num_results": 50}
        found = http.post(f"/v1/vector_stores/{store}/search", json=query).json()["data"]
        assert len(found) == 50
        documents = bench.rag.catalog.get("s").documents()
        assert sorted(info.file_id for info in documents) == sorted(files)
        assert len({info.chunks for info in documents}) == 1, "no chunk is there twice"

    listed = start(served_home, "jobs", "list", "--json", "--limit", "1000")
    out, _ = listed.communicate(timeout=60)
    done = Counter((job["kind"], job["status"]) for job in json.loads(out)["jobs"])
    assert done["file", "completed"] == 30
    assert done["folders", "completed"] == 1
    assert not (served_home / "jobs.db").exists()
    bench.rag.db.close()
