"""The server's process for jobs: it starts when needed, dies and lives with the server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from served_process import ROOT, ServeProcess, serve_process

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.timeout(300),
]


def _until(holds: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def _children(served: ServeProcess) -> list[int]:
    """Return the processes that ingest files for servers on this home."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            environment = (path / "environ").read_bytes()
        except OSError:
            continue
        if b"ingest.job_worker" in command and str(served.home).encode() in environment:
            found.append(int(path.name))
    return found


def _put(http: httpx.Client, store: str, text: str) -> str:
    sent = {"file": ("a.txt", text.encode())}
    answer = http.post("/v1/files", files=sent, data={"purpose": "user_data"})
    file = str(answer.json()["id"])
    shown = http.post(f"/v1/vector_stores/{store}/files", json={"file_id": file})
    assert shown.status_code == 200, shown.text
    assert shown.json()["status"] == "in_progress"
    assert shown.json()["progress"]["phase"] in ("queued", "parsing")
    return file


def _status(http: httpx.Client, store: str, file: str) -> str:
    shown = http.get(f"/v1/vector_stores/{store}/files/{file}").json()
    assert (shown["progress"] is None) == (shown["status"] != "in_progress")
    return str(shown["status"])


def test_it_starts_when_needed_and_comes_again_when_it_dies(home: Path) -> None:
    with serve_process(home) as served, served.http() as http:
        assert _children(served) == []
        store = http.post("/v1/vector_stores", json={"name": "s"}).json()["id"]
        first = _put(http, store, "The valve is blue.")
        _until(lambda: _status(http, store, first) == "completed")
        (child,) = _children(served)
        begin = time.monotonic()
        second = _put(http, store, "The pump needs oil.")
        _until(lambda: _status(http, store, second) == "completed")
        assert time.monotonic() - begin < 5  # the process runs already

        os.kill(child, signal.SIGKILL)
        third = _put(http, store, "The seal is red.")
        _until(lambda: _status(http, store, third) == "completed")
        assert _children(served) != [child]
        found = http.post(f"/v1/vector_stores/{store}/search", json={"query": "oil"}).json()
        assert second in [hit["file_id"] for hit in found["data"]]

        listed = _youju(home, "jobs", "list", "--json")
        assert {job["status"] for job in json.loads(listed)["jobs"]} == {"completed"}
        assert "completed" in _youju(home, "jobs", "list")
        told = _youju(home, "jobs", "show", f"{store}.{third}")
        assert f"id: {store}.{third}.1" in told
        assert f"created_at: {datetime.now():%Y-%m-}" in told
        assert re.search(r"^seconds: \d+$", told, re.M)
        assert served.stop() == 0
    _until(lambda: _children(served) == [], 10)


@pytest.mark.slow
def test_killed_servers_take_it_along_and_lose_nothing(home: Path) -> None:
    files: list[str] = []
    store = ""
    for number in range(2):
        with serve_process(home, ready=False) as served, served.http() as http:
            store = store or http.post("/v1/vector_stores", json={"name": "s"}).json()["id"]
            files += [_put(http, store, f"Valve {number}.{n} is blue.") for n in range(4)]
            if number:
                _until(lambda: _children(served) != [])
            served.running.kill()
            served.running.wait()
        _until(lambda: _children(served) == [], 30)
    with serve_process(home, ready=False) as served, served.http() as http:
        for file in files:
            _until(lambda: _status(http, store, file) == "completed")  # noqa: B023
        found = http.post(
            f"/v1/vector_stores/{store}/search", json={"query": "valve", "max_num_results": 50}
        ).json()
        assert sorted(hit["file_id"] for hit in found["data"]) == sorted(files)


@pytest.mark.slow
def test_servers_and_their_workers_have_one_between_them(home: Path) -> None:
    with serve_process(home, "--workers", "2") as pair, serve_process(home) as single:
        with pair.http() as http, single.http() as other:
            store = http.post("/v1/vector_stores", json={"name": "s"}).json()["id"]
            files = [_put(one, store, "The valve is blue.") for one in (http, other) * 4]
            for file in files:
                _until(lambda: _status(http, store, file) == "completed")  # noqa: B023
            assert len(_children(pair)) == 1


@pytest.mark.slow
def test_without_it_a_worker_of_ones_own_does_the_work(home: Path) -> None:
    with serve_process(home, ready=False, jobs_in_server=False) as served, served.http() as http:
        store = http.post("/v1/vector_stores", json={"name": "s"}).json()["id"]
        file = _put(http, store, "The valve is blue.")
        time.sleep(1.5)
        assert _children(served) == []
        assert _status(http, store, file) == "in_progress"
        worker = subprocess.Popen(
            [sys.executable, "-m", "youju", "worker", "--concurrency", "1"],
            env=_environment(home), cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        _until(lambda: _status(http, store, file) == "completed")
        worker.send_signal(signal.SIGTERM)
        said, _ = worker.communicate(timeout=30)
        assert worker.returncode == 0
        assert f"completed {file} {store}" in said


def _environment(home: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "YOUJU_HOME": str(home), "PYTHONPATH": path}


def _youju(home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "youju", *arguments],
        capture_output=True, text=True, env=_environment(home), cwd=ROOT, check=True,
    )  # fmt: skip
    return done.stdout
